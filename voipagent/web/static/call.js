// One call over WebRTC: an offer goes by POST, the answer comes back (RFC 9725's ways); the same URL mends or ends it.

import { Fault, ofMicrophone, ofResponse } from './faults.js';

const GATHERED_MS = 150; // then the offer goes with the candidates that are there; later ones follow
const CONNECTED_MS = 12000;
const AWAY_MS = 3000; // a gap that mends itself is no reason for another connection
const GRACE_MS = 60000; // the server holds the conversation for so long
const FIRST_MS = 25000; // the server may prime its model before it answers
const REQUEST_MS = 8000; // any later request: where packets vanish, nothing else would say so
const SDP = 'application/sdp';
const FRAGMENT = 'application/trickle-ice-sdpfrag';

/** The microphone, as that device or any. */
export async function microphone(device) {
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  if (device) audio.deviceId = { exact: device };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw ofMicrophone(error);
  }
}

/** Dispatches: sound (with the agent's stream), connected, away, over (with a Fault). */
export class Call extends EventTarget {
  #connection = null;
  #url = null;
  #etag = '';
  #late = [];
  #timer = 0;
  #ended = false;
  #away = false;

  /** `asked` goes with the offer: persona, or room, name and pin; what is empty does not. */
  constructor({ endpoint, asked, token, stream }) {
    super();
    this.endpoint = new URL(endpoint, document.baseURI);
    for (const [key, value] of Object.entries(asked)) if (value) this.endpoint.searchParams.set(key, value);
    this.headers = token ? { Authorization: `Bearer ${token}` } : {};
    this.stream = stream;
    this.servers = [];
  }

  get connection() {
    return this.#connection;
  }

  /** What the session is called; only we know. */
  get session() {
    return this.#url?.pathname.split('/').pop() ?? '';
  }

  /** Call. Throws a Fault. */
  async start() {
    if (!('RTCPeerConnection' in window)) throw new Fault('old');
    this.servers = iceServers(await this.#fetch(this.endpoint, { method: 'OPTIONS' }));
    await this.#connect(this.endpoint);
  }

  /** Speak through another microphone from now on. */
  async replace(stream) {
    const track = stream.getAudioTracks()[0];
    for (const old of this.stream.getTracks()) {
      track.enabled = old.enabled;
      old.stop();
    }
    this.stream = stream;
    await this.#connection?.getSenders()[0]?.replaceTrack(track);
  }

  mute(muted) {
    for (const track of this.stream.getAudioTracks()) track.enabled = !muted;
  }

  /** Hang up; also while the page goes away. */
  hangUp() {
    if (this.#url && !this.#ended) {
      fetch(this.#url, { method: 'DELETE', headers: this.headers, keepalive: true }).catch(() => {});
    }
    this.close();
  }

  /** Let go of everything here; the server has ended it, or will. */
  close() {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#connection?.close();
    for (const track of this.stream.getTracks()) track.stop();
  }

  // --- the connection

  async #connect(url) {
    const old = this.#connection;
    const connection = new RTCPeerConnection({ iceServers: this.servers, bundlePolicy: 'max-bundle' });
    this.#connection = connection;
    this.#late = [];
    old?.close();
    connection.addTransceiver(this.stream.getAudioTracks()[0], { direction: 'sendrecv', streams: [this.stream] });
    connection.ontrack = ({ track, streams }) => this.#tell('sound', streams[0] ?? new MediaStream([track]));
    connection.onconnectionstatechange = () => connection === this.#connection && this.#moved(connection.connectionState);
    await connection.setLocalDescription(await connection.createOffer());
    await gathered(connection);
    connection.onicecandidate = ({ candidate }) => candidate && this.#trickle(connection, candidate);
    const response = await this.#fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': SDP },
      body: connection.localDescription.sdp,
    });
    if (!response.ok) throw await ofResponse(response);
    if (!this.#url) {
      this.#url = new URL(response.headers.get('Location'), response.url);
      if (this.#ended) return this.#abandon();
    }
    this.#etag = response.headers.get('ETag') ?? '';
    await connection.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    for (const candidate of this.#late.splice(0)) this.#trickle(connection, candidate);
    await connected(connection);
  }

  /** It was hung up while the server still thought about it. */
  #abandon() {
    this.#ended = false;
    this.hangUp();
  }

  #moved(state) {
    clearTimeout(this.#timer);
    if (this.#ended) return;
    if (state === 'connected') {
      this.#away = false;
      this.#tell('connected');
    } else if (state === 'disconnected' || state === 'failed') {
      if (!this.#url || this.#away) return;
      this.#timer = setTimeout(() => this.#mend(), state === 'failed' ? 0 : AWAY_MS);
    }
  }

  /** Find another way to the same conversation, for as long as the server holds it. */
  async #mend() {
    this.#away = true;
    this.#tell('away');
    const until = performance.now() + GRACE_MS;
    for (let pause = 500; !this.#ended; pause = Math.min(4000, pause * 2)) {
      try {
        await this.#connect(this.#url);
        return;
      } catch (error) {
        if (this.#ended) return;
        if (error instanceof Fault && error.kind === 'refused') return this.#over(new Fault('lost'));
        if (performance.now() + pause > until) return this.#over(new Fault('lost'));
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Tell the server of a way that was found late. */
  async #trickle(connection, candidate) {
    if (connection !== this.#connection || this.#ended) return;
    if (!this.#etag || !connection.remoteDescription) {
      this.#late.push(candidate);
      return;
    }
    const { usernameFragment, sdpMid } = candidate;
    const password = /^a=ice-pwd:(.*?)\r?$/m.exec(connection.localDescription.sdp)?.[1] ?? '';
    const body =
      `a=ice-ufrag:${usernameFragment}\r\na=ice-pwd:${password}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n` +
      `a=mid:${sdpMid}\r\na=${candidate.candidate}\r\n`;
    const headers = { 'Content-Type': FRAGMENT, 'If-Match': this.#etag };
    await this.#fetch(this.#url, { method: 'PATCH', headers, body }).catch(() => {});
  }

  async #fetch(url, options) {
    try {
      return await fetch(url, {
        ...options,
        headers: { ...options.headers, ...this.headers },
        cache: 'no-store',
        signal: AbortSignal.timeout(this.#url ? REQUEST_MS : FIRST_MS),
      });
    } catch {
      throw new Fault('unreachable');
    }
  }

  #over(fault) {
    this.close();
    this.#tell('over', fault);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

/** Until all candidates are there, or for as long as is worth waiting. */
function gathered(connection) {
  return new Promise((resolve) => {
    if (connection.iceGatheringState === 'complete') return resolve();
    connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && resolve();
    return setTimeout(resolve, GATHERED_MS);
  });
}

/** Until sound can flow. Throws a Fault. */
function connected(connection) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (connection.connectionState === 'connected') resolve();
      if (['failed', 'closed'].includes(connection.connectionState)) reject(new Fault('ice'));
    };
    connection.addEventListener('connectionstatechange', look);
    setTimeout(() => reject(new Fault('ice')), CONNECTED_MS);
    look();
  });
}

/** The ICE servers in Link headers (RFC 9725, section 4.6). */
export function iceServers(response) {
  const servers = [];
  for (const link of (response.headers.get('Link') ?? '').split(/,\s*(?=<)/)) {
    const [, urls, rest] = /^<([^>]+)>(.*)$/.exec(link.trim()) ?? [];
    if (!urls || !/;\s*rel="?ice-server"?/.test(rest)) continue;
    const value = (name) => new RegExp(`;\\s*${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(rest)?.[1].replace(/\\(.)/g, '$1');
    const username = value('username');
    servers.push(username ? { urls, username, credential: value('credential') ?? '' } : { urls });
  }
  return servers;
}
