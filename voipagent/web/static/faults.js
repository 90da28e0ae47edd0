// What can go wrong, and what to do about it: each fault says both.

/** Something that keeps the call from being made or going on. `kind` is a key of `words`. */
export class Fault extends Error {
  constructor(kind, detail = '') {
    super(`${kind}${detail ? `: ${detail}` : ''}`);
    this.kind = kind;
    this.detail = detail;
  }
}

const words = {
  insecure: () => [
    'This page may not hear you',
    'Browsers give a microphone only to pages that come over https, or from this very machine. Whoever runs the ' +
      `server can set this, and the page is at https://${location.host}/ from then on:`,
    'VOIPAGENT_HTTP__TLS=self-signed',
  ],
  old: () => ['This browser cannot make calls', 'It has no WebRTC. A current Firefox, Chrome, Edge or Safari has.'],
  'no-microphone': () => ['No microphone was found', 'Plug one in, or switch it on in the settings of this device, then call again.'],
  denied: () => [
    'The microphone was not allowed',
    'Allow it for this page (the symbol beside the address, or the settings of the browser), then call again.',
  ],
  'microphone-busy': () => ['The microphone cannot be used', 'Another program may have it. Close that, or choose another one, then call again.'],
  'microphone-gone': () => ['The microphone went away', 'Choose another one; the call goes on meanwhile.'],
  'token-wanted': () => ['An access token is wanted', 'Ask whoever runs this agent for it, enter it below, then call again.'],
  token: () => ['The access token is not right', 'Ask whoever runs this agent for it, enter it below, then call again.'],
  closed: (detail) => ['Nobody may call here yet', detail, 'VOIPAGENT_WEBRTC__TOKEN'],
  forbidden: (detail) => ['This was not allowed', detail],
  full: (detail) => ['All lines are busy', detail || 'Call again in a moment.'],
  'no-room': () => [
    'There is no such room, or its PIN is another',
    'Check the link with whoever gave it to you. If the room has a PIN, enter it below, then join again.',
  ],
  'too-many-pins': () => ['Too many wrong PINs were tried', 'The room takes none for ten minutes. Then join again, with the right one.'],
  'room-full': () => ['The room is full', 'Join again when somebody has left.'],
  refused: (detail) => ['The agent could not take the call', detail || 'Call again; the log of the server says more.'],
  unreachable: () => ['The server cannot be reached', 'See that you are online and that the agent runs, then call again.'],
  ice: () => [
    'No way for the sound was found',
    'The server answered, but no audio gets through: often a firewall that stops UDP. Try another network; whoever ' +
      'runs the server can open its UDP ports, or set a TURN server:',
    'VOIPAGENT_WEBRTC__ICE_SERVERS',
  ],
  lost: () => ['The connection was lost', 'It did not come back within a minute. See that you are online, then call again.'],
  ended: (detail) => ['The call ended', detail],
};

/** Title, text and, if there is one, a setting that mends it. */
export function explain(fault) {
  const [title, text = '', code = ''] = (words[fault.kind] ?? (() => ['Something went wrong', fault.message]))(fault.detail);
  return { title, text, code };
}

/** What getUserMedia has against it. */
export function ofMicrophone(error) {
  const kinds = {
    NotFoundError: 'no-microphone',
    OverconstrainedError: 'no-microphone',
    NotAllowedError: 'denied',
    SecurityError: 'denied',
    NotReadableError: 'microphone-busy',
    AbortError: 'microphone-busy',
  };
  return new Fault(kinds[error.name] ?? 'microphone-busy', error.message);
}

/** What an answer of the server other than 2xx means. */
export async function ofResponse(response) {
  let detail = '';
  try {
    detail = (await response.json()).detail ?? '';
  } catch {
    // not every proxy between us speaks in problem bodies
  }
  detail = typeof detail === 'string' ? sentence(detail) : '';
  const after = Number(response.headers.get('Retry-After'));
  const ofRoom = new URL(response.url).searchParams.has('room');
  switch (response.status) {
    case 401:
      return new Fault('token');
    case 404:
      return new Fault(ofRoom ? 'no-room' : 'refused', detail);
    case 403:
      return new Fault(/token/.test(detail) ? 'closed' : 'forbidden', detail);
    case 429:
    case 503:
      if (ofRoom && /\bPINs\b/.test(detail)) return new Fault('too-many-pins');
      if (ofRoom && /\bis full\b/.test(detail)) return new Fault('room-full');
      return new Fault('full', `${detail}${after ? ` Call again in ${after} seconds.` : ''}`.trim());
    default:
      return new Fault('refused', detail);
  }
}

/** With a capital in front and a stop behind. */
export function sentence(text) {
  const said = text.trim();
  return said && `${said[0].toUpperCase()}${said.slice(1)}${/[.!?]$/.test(said) ? '' : '.'}`;
}
