// A room that several are in: which one the link names, who is there, and who of them speaks.

/** What the link says, as /?room=NAME#pin=1234: what is behind the # no server sees. */
export function roomOf({ search, hash }) {
  const room = new URLSearchParams(search).get('room')?.trim() ?? '';
  return { room, pin: room ? (new URLSearchParams(hash.slice(1)).get('pin') ?? '') : '' };
}

export class People {
  constructor(list) {
    Object.assign(this, { list, you: '', agent: 'Agent' });
  }

  /** Names as the server tells them; "" is the agent, which always listens. */
  put({ names, speaking }) {
    const items = ['', ...names].map((name) => {
      const item = document.createElement('li');
      item.textContent = name === '' ? this.agent : name === this.you ? `${name} (you)` : name;
      if (name === '') item.className = 'agent';
      if (name === this.you) item.className = 'you';
      if (speaking.includes(name)) {
        item.classList.add('speaks');
        item.append(said('speaks'));
      }
      return item;
    });
    this.list.replaceChildren(...items);
    this.list.hidden = false;
  }

  clear() {
    this.list.replaceChildren();
    this.list.hidden = true;
  }
}

/** For those who do not see the colour. */
function said(text) {
  const made = document.createElement('span');
  made.className = 'unseen';
  made.textContent = `, ${text}`;
  return made;
}
