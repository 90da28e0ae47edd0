// The page: one button, what is heard, what is said, how good it is.

import { Call, microphone } from './call.js';
import { Fault, explain, sentence } from './faults.js';
import { Live } from './live.js';
import { Quality, milliseconds, percent } from './quality.js';
import { People, roomOf } from './room.js';
import { Meter, Trace, beat } from './traces.js';
import { Transcript } from './transcript.js';

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($('lines'), $('scroll'), $('nothing'));
const people = new People($('people'));
const { room, pin } = roomOf(location); // "" where there is only the agent
const traces = { agent: new Trace($('agent-trace')), you: new Trace($('you-trace')) };

let settings = { agent: 'Agent', personas: [], token: false, recorded: 'none', endpoint: 'duplex' };
let running = null; // the call, with all that hangs on it

// --- what is shown

function show(state, status) {
  document.body.dataset.state = state;
  if (status !== undefined) $('status').textContent = status;
  const on = state !== 'idle';
  $('call-label').textContent = room ? (on ? 'Leave' : 'Join') : on ? 'Hang up' : 'Call';
  $('mute').disabled = !on;
  for (const id of ['persona', 'token', 'name', 'pin']) $(id).disabled = on;
}

function showFault(fault) {
  const { title, text, code } = explain(fault);
  $('fault-title').textContent = title;
  $('fault-text').textContent = text;
  $('fault-code').textContent = code;
  $('fault-hint').hidden = !code;
  $('fault').hidden = false;
}

function hideFault() {
  $('fault').hidden = true;
}

function clock(since) {
  const seconds = Math.floor((performance.now() - since) / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

function name(agent) {
  for (const id of ['agent', 'agent-label']) $(id).textContent = agent;
  transcript.names.agent = people.agent = agent;
  if (!room) return;
  $('agent').textContent = `Room ${room}`;
  $('agent-label').textContent = 'All others';
}

// --- the microphones there are

async function listMicrophones() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const chosen = $('microphone').value;
  const found = devices.filter((each) => each.kind === 'audioinput' && each.deviceId && each.deviceId !== 'default');
  const options = found.map((each, index) => new Option(each.label || `Microphone ${index + 1}`, each.deviceId));
  $('microphone').replaceChildren(new Option('Default microphone', ''), ...options);
  $('microphone').value = found.some((each) => each.deviceId === chosen) ? chosen : '';
}

async function changeMicrophone() {
  const here = running;
  if (!here?.call) return;
  try {
    await hear(here, await microphone($('microphone').value));
    hideFault();
  } catch (error) {
    showFault(error);
  }
}

/** Use this microphone in the call. */
async function hear(here, stream) {
  if (here !== running) return stream.getTracks().forEach((track) => track.stop());
  if (here.call && here.call.stream !== stream) await here.call.replace(stream);
  here.ears.you?.close();
  here.ears.you = new Meter(here.context, stream);
  const [track] = stream.getAudioTracks();
  track.onended = () => here === running && showFault(new Fault('microphone-gone'));
}

// --- a call

async function begin() {
  const here = { ears: {}, quality: new Quality(), context: new AudioContext(), stops: [], since: 0, muted: false };
  running = here;
  hideFault();
  transcript.clear();
  show('calling', 'Asking for the microphone…');
  const token = $('token').value.trim();
  try {
    const stream = await microphone($('microphone').value);
    if (here !== running) return stream.getTracks().forEach((track) => track.stop());
    show('calling', 'Calling…');
    here.call = new Call({ endpoint: settings.endpoint, asked: asked(), token, stream });
    await here.context.resume();
    await hear(here, stream);
    listen(here);
    listMicrophones();
    await here.call.start();
    if (here !== running) return undefined;
    if (token) sessionStorage.setItem('token', token);
    here.stops.push(watch(here));
  } catch (error) {
    if (here !== running) return undefined;
    const fault = error instanceof Fault ? error : new Fault('unknown', error.message);
    end(fault.kind === 'token' && !token ? new Fault('token-wanted') : fault);
  }
  return undefined;
}

function asked() {
  if (!room) return { persona: $('persona').value };
  sessionStorage.setItem('name', $('name').value);
  return { room, name: $('name').value.trim(), pin: $('pin').value.trim() };
}

/** What the call tells us. */
function listen(here) {
  const { call } = here;
  here.stops.push(beat(() => tick(here)));
  call.addEventListener('sound', ({ detail: stream }) => {
    $('ear').srcObject = stream; // also where a Meter listens: without an element Chromium decodes nothing
    $('ear').play().catch(() => {});
    here.ears.agent?.close();
    here.ears.agent = new Meter(here.context, stream);
  });
  call.addEventListener('connected', () => {
    here.since ||= performance.now();
    show('live', `On the line · ${clock(here.since)}`);
  });
  call.addEventListener('away', () => show('away', 'The connection was lost. Looking for another way…'));
  call.addEventListener('over', ({ detail: fault }) => here === running && end(fault));
}

/** What the server tells us, and the readout. Gives what ends that. */
function watch(here) {
  const live = new Live(here.call.session, {
    you: ({ name: you }) => {
      transcript.you = people.you = you;
    },
    people: (told) => here === running && people.put(told),
    line: (line) => transcript.put(line),
    note: ({ note, why, at }) => transcript.note(happened(note, why), at),
    statistics: (statistics) => here.quality.told(statistics),
    state: (state) => state.state === 'ended' && here === running && end(ending(state)),
  });
  const timer = setInterval(() => read(here), 1000);
  return () => {
    live.close();
    clearInterval(timer);
  };
}

/** What the agent did beside talking. */
function happened(note, why) {
  if (note === 'troubled') return `The agent was stuck (${why}) and was set right.`;
  return 'The agent noted down what was said so far.';
}

/** What to say when the server has ended it; nothing where the caller has. */
function ending({ by, reason }) {
  if (by === 'caller') return null;
  return new Fault('ended', sentence(by === 'agent' && !room ? `the agent hung up: ${reason}` : reason));
}

function tick(here) {
  const level = here.muted ? 0 : (here.ears.you?.level ?? 0);
  traces.you.push(level);
  traces.agent.push(here.ears.agent?.level ?? 0);
  $('level').style.transform = `scaleX(${level.toFixed(3)})`;
}

async function read(here) {
  if (document.body.dataset.state === 'live') $('status').textContent = `On the line · ${clock(here.since)}`;
  const known = await here.quality.read(here.call.connection);
  if (here !== running) return;
  for (const id of ['latency', 'network', 'model']) $(id).textContent = milliseconds(known[id]);
  $('loss-in').textContent = percent(known.in);
  $('loss-out').textContent = percent(known.out);
}

/** The call is over; `fault` is what to tell, if anything. */
function end(fault) {
  const here = running;
  running = null;
  here.call?.hangUp();
  for (const stop of here.stops) stop();
  for (const ear of Object.values(here.ears)) ear.close();
  here.context.close();
  $('ear').srcObject = null;
  $('level').style.transform = 'scaleX(0)';
  mute(false);
  people.clear();
  show('idle', here.since ? `The call lasted ${clock(here.since)}.` : 'Ready when you are.');
  if (fault) showFault(fault);
  if (fault?.kind.startsWith('token')) askForToken();
  if (fault?.kind === 'no-room') $('pin').focus();
}

function mute(muted) {
  if (running) {
    running.muted = muted;
    running.call?.mute(muted);
  }
  $('mute').setAttribute('aria-pressed', String(muted));
  $('you-label').textContent = muted ? 'You, muted' : 'You';
}

function askForToken() {
  $('token-choice').hidden = false;
  sessionStorage.removeItem('token');
  $('token').focus();
}

// --- the beginning

function apply(told) {
  settings = told;
  name(told.agent);
  document.title = room ? `Room ${room}` : `Talk to ${told.agent}`;
  $('persona').replaceChildren(new Option('As usual', ''), ...told.personas.map(({ id, name: text }) => new Option(text, id)));
  $('persona-choice').hidden = told.personas.length === 0 || room !== '';
  $('token-choice').hidden = !told.token;
  const recorded = {
    both: `What you ${room ? 'all' : 'both'} say is recorded by whoever runs this agent.`,
    agent: 'What the agent says is recorded by whoever runs it; what you say is not.',
    none: 'Nothing of this call is recorded as sound.',
  };
  $('recorded').textContent = recorded[told.recorded] ?? '';
}

/** A token may come in the link, behind a #, which no server sees. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token || pin) history.replaceState(null, '', location.pathname + location.search);
  $('token').value = token ?? sessionStorage.getItem('token') ?? '';
}

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (running) end(null);
  else begin();
});
$('mute').addEventListener('click', () => mute(!running?.muted));
$('microphone').addEventListener('change', changeMicrophone);
$('persona').addEventListener('change', ({ target }) => name(target.value ? target.selectedOptions[0].text : settings.agent));
addEventListener('keydown', (event) => {
  if (event.key.toLowerCase() !== 'm' || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (!running || ['INPUT', 'SELECT'].includes(event.target.tagName)) return;
  mute(!running.muted);
});
addEventListener('pagehide', () => running?.call?.hangUp());

/** Somebody has sent us a link to a room: it wants to know who comes. */
function askForName() {
  for (const id of ['name-choice', 'pin-choice']) $(id).hidden = false;
  $('name').required = true;
  $('name').value = sessionStorage.getItem('name') ?? '';
  $('pin').value = pin;
  $('nothing').textContent = 'What you all say will appear here.';
}

takeToken();
if (room) askForName();
show('idle');
if (!isSecureContext || !navigator.mediaDevices) {
  $('call').disabled = true;
  $('status').textContent = '';
  showFault(new Fault(isSecureContext ? 'old' : 'insecure'));
} else {
  listMicrophones().catch(() => {});
  navigator.mediaDevices.addEventListener('devicechange', () => listMicrophones());
}
fetch(new URL('page.json', document.baseURI), { cache: 'no-store' })
  .then((response) => response.json())
  .then(apply)
  .catch(() => showFault(new Fault('unreachable')));
