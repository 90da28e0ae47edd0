// The lines that both say. A line that grows is grey and not read aloud; once it is final, it is, as a line anew.

const NEAR = 60; // pixels from the end within which new lines are scrolled to

export class Transcript {
  constructor(list, scroll, nothing) {
    Object.assign(this, { list, scroll, nothing, names: { agent: 'Agent', caller: 'You' }, you: '' });
  }

  clear() {
    this.list.replaceChildren();
    this.nothing.hidden = false;
  }

  /** A line, grown or final: role and start tell which; `speaker` who of several has said it. */
  put({ role, text, start, final, speaker = '' }) {
    const key = `${role} ${start}`;
    const before = [...this.list.children].find((item) => item.dataset.key === key);
    const other = speaker !== '' && speaker !== this.you;
    const item = element('li', `${role}${other ? ' other' : ''}${final ? '' : ' growing'}`);
    item.dataset.key = key;
    item.dataset.start = start;
    item.append(element('b', '', other ? speaker : (this.names[role] ?? role)), element('p', '', text));
    if (!final) item.setAttribute('aria-hidden', 'true');
    this.#show(item, before);
  }

  /** Something that happened between the lines. */
  note(text, at) {
    const item = element('li', 'note', text);
    item.dataset.start = at;
    this.#show(item);
  }

  #show(item, before) {
    const atEnd = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < NEAR;
    this.nothing.hidden = true;
    if (before) {
      before.replaceWith(item);
    } else {
      const start = Number(item.dataset.start);
      const next = [...this.list.children].find((other) => Number(other.dataset.start) > start);
      this.list.insertBefore(item, next ?? null);
    }
    if (atEnd) this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}

function element(name, className = '', text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
