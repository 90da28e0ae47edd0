// What the server tells of this call while it runs.

/** Listens to a session's events; `on` has a function for each: state, line, note, statistics. */
export class Live {
  constructor(session, on) {
    this.source = new EventSource(new URL(`live/${encodeURIComponent(session)}`, document.baseURI));
    for (const [kind, tell] of Object.entries(on)) {
      this.source.addEventListener(kind, (event) => tell(JSON.parse(event.data)));
    }
    this.source.addEventListener('state', (event) => {
      if (JSON.parse(event.data).state === 'ended') this.close();
    });
  }

  close() {
    this.source.close();
  }
}
