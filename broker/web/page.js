// The broker's page: the sessions, and one of them, live. What others wrote reaches the document as text only.
import { Client, position, randomId } from './client.js';
import { KINDS, card, says } from './ask.js';
import { bodyText, visible } from './text.js';
const PAGE = 200; // records, and sessions, of one reading
const ROWS_MAX = 1_000; // rows in the document; the others are read again when they are scrolled to
const CHARS_MAX = 4 << 20; // and characters in them
const ROW_CHARS_MAX = 16 << 10; // characters of one row, until more of it is asked for
const NEAR = 400; // pixels from an edge where the next records are read
const LIST_EVERY_MS = 4_000;
const LIST_MAX = 1_000; // sessions of which the list is kept fresh
const [SESSION, TOMBSTONE] = [10, 11]; // the kinds of a record that tells of a change of the session, and of an erased one
const ERASE = 0x1a; // the first byte of such a record that tells of an erasure
const $ = (id) => document.getElementById(id);
const log = $('log');
const producers = new Map(); // by session: they outlive the view
let [unsent, view] = [0, null];
const url = `${location.origin.replace(/^http/, 'ws')}/v1/connect`;
// A link that was shared has a token in its fragment, which no request has. It goes from there at once, and stays in this tab.
function takeToken() {
  const [place, token] = location.hash.split('?token=');
  if (token) sessionStorage.setItem('token', token), history.replaceState(null, '', place);
  return token;
}
const token = takeToken() || sessionStorage.getItem('token') || '';
const client = new Client(url, { device: 'page', name: 'longwire-page/0.1', token, onState: showState });
const why = ({ code, message }) => ({
  unauthenticated: 'You need a link that somebody shared with you; without one, or with this one, nobody is let in.',
  token_expired: 'The link has expired. Ask whoever shared it for another one.',
  session_not_found: 'There is no such session, or it is not shared with you.',
  token_revoked: 'The link was revoked. Ask whoever shared it for another one.',
})[code] ?? message;
function element(name, className, text = '', ...children) {
  const made = Object.assign(document.createElement(name), { className, textContent: visible(text) });
  return made.append(...children), made;
}
const button = (text, onclick) => Object.assign(element('button', '', text), { type: 'button', onclick });

function showState() {
  if (client.state === 'connecting') return; // what was last said of the connection stays true until it is known
  const open = view?.state() ?? 'Connected';
  const words = { waiting: 'No connection, trying again…', closed: client.error && `Stopped: ${why(client.error)}`, open };
  const text = visible(words[client.state]);
  if ($('state').textContent !== text) $('state').textContent = text; // said aloud once
  $('state').className = client.state;
}
function showTitle(title) {
  document.title = title === 'Longwire' ? title : `${visible(title)} · Longwire`;
  $('title').textContent = visible(title);
}
/** What a record says; of the last piece of a message also how it ended. */
const words = (record) =>
  record.kind === KINDS.DELTA ? [bodyText(record), says(record)].filter(Boolean).join(' ') : (says(record) ?? bodyText(record));
/** One open session. The document has the records `[first, next)`; `live` is the next that the broker will deliver. */
class View {
  pending = new Map(); start = 0; lastTop = 0; over = '';
  constructor(session) {
    this.session = session;
    this.producer = producers.get(session) ?? client.producer(session);
    producers.set(session, this.producer);
    showTitle(session);
    this.note('');
    this.reset(null, 0);
    this.describe();
    const [begun, deliver, ended] = ['begun', 'deliver', 'ended'].map((name) => this[name].bind(this));
    this.subscription = client.subscribe({ session, from: { last: PAGE }, begun, deliver, ended });
  }
  leave() { this.subscription.cancel(), $('pending').replaceChildren(), $('asks').replaceChildren(); }
  state() {
    return this.over || (this.epoch === null ? 'Waiting' : this.live < this.subscription.end ? 'Catching up…' : 'Live');
  }
  note(text) { $('note').textContent = visible(text); }
  async describe() {
    const found = await client.ask('describeSession', { session: this.session }).catch(() => null);
    if (view === this && found?.session.meta?.title) showTitle(found.session.meta.title);
  }
  /** What is asked, as cards below the records. One that is open stays as it is: somebody may be filling it in. */
  asked(asks) {
    const open = new Set(asks.map(({ id }) => id));
    for (const form of [...$('asks').children]) if (!open.has(form.dataset.ask)) form.remove();
    const shown = new Set([...$('asks').children].map((form) => form.dataset.ask));
    for (const ask of asks) if (!shown.has(ask.id)) $('asks').append(card(ask, (record) => this.producer.publish([record])));
  }
  begun({ outcome, exists, epoch = 0, start = 0, from = 0, gapFrom = 0, end = 0, state = {} }) {
    this.asked(state.asks ?? []);
    this.askedFrom = Number(end);
    const same = exists && this.epoch === Number(epoch) && this.live === Number(from);
    if (!same) this.reset(exists ? Number(epoch) : null, Number(from));
    if (!exists) this.note('There is nothing in this session yet.');
    else if (outcome === 'gap') this.note(`Records ${gapFrom} to ${from - 1} are no longer kept.`);
    else if (outcome === 'epoch_changed') this.note('The session was made anew: this is another history.');
    this.start = Number(start);
    this.moved();
  }
  deliver(records, { epoch = 0, next }) {
    if (this.epoch === null) this.note(''), this.reset(Number(epoch), 0);
    // Who reads further up is not disturbed: what does not fit is read when it is scrolled to.
    if (this.next === this.live && (this.stick || this.rows.length < ROWS_MAX)) {
      this.append(records, Number(next));
      this.nextEpoch = Number(epoch);
    }
    this.live = Number(next);
    this.epoch = Number(epoch);
    if (records.some(({ kind }) => kind === SESSION)) this.describe();
    // What was erased must not stay on the page: it is read anew, as it is now.
    const erased = records.some(({ kind, data = '' }) => kind === SESSION && atob(data).charCodeAt(0) === ERASE);
    if (erased) this.reset(this.epoch, this.live);
    for (const { id, producer, kind, replyTo, sender = {}, offset, ...record } of records) {
      // What was asked before this was subscribed came with that, open or not.
      const now = kind === KINDS.ASK && offset >= this.askedFrom && { id, principal: sender.principal, ...record };
      if (now && !$('asks').querySelector(`[data-ask="${id}"]`)) $('asks').append(card(now, (one) => this.producer.publish([one])));
      if (kind === KINDS.ANSWER) $('asks').querySelector(`[data-ask="${replyTo}"]`)?.remove();
      if (producer?.id === this.producer.id) this.pending.get(id)?.remove(), this.pending.delete(id);
    }
    this.moved();
  }
  ended(code, error) {
    const closed = code.endsWith('closed');
    const gone = code === 'future_position' && 'Records that were shown here are gone from the broker: reload the page.';
    this.over = closed ? 'Closed' : code === 'session_deleted' ? 'Deleted' : 'Stopped';
    this.note(gone || (closed ? 'The session is closed: it takes no more messages.' : why(error)));
    $('fields').disabled = true;
    this.moved();
  }
  reset(epoch, offset) {
    $('rows').replaceChildren();
    Object.assign(this, { rows: [], chars: 0, epoch, history: {}, stick: true });
    Object.assign(this, { first: offset, firstEpoch: epoch, next: offset, nextEpoch: epoch, live: offset });
  }
  append(records, next) {
    this.add(records, 'append', 'push');
    this.next = next;
    if (this.stick) this.trim('shift');
  }
  add(records, place, push) {
    const made = [];
    for (const record of records) {
      const last = made.at(-1) ?? (push === 'push' ? this.rows.at(-1) : undefined);
      if (!last?.takes(record)) made.push(this.row(record));
    }
    $('rows')[place](...made.map(({ element }) => element));
    this.rows[push](...made);
    this.chars = this.rows.reduce((sum, { chars }) => sum + chars, 0);
  }
  /** Drops rows from one end, for as long as there are too many. */
  trim(end) {
    while (this.rows.length > 1 && (this.rows.length > ROWS_MAX || this.chars > CHARS_MAX)) {
      const { element: dropped, epoch, offset, last, chars } = this.rows[end]();
      dropped.remove();
      this.chars -= chars;
      Object.assign(this, end === 'pop' ? { next: offset, nextEpoch: epoch } : { first: last + 1, firstEpoch: epoch });
    }
  }
  /** Changes the rows while what the reader sees stays where it is, seen from the end. */
  still(change) {
    const below = bottom();
    change();
    log.scrollTop = log.scrollHeight - log.clientHeight - below;
  }
  /** Reads on at one edge of what the document has. */
  async read(older) {
    const { session, history, first, firstEpoch, next, nextEpoch, live } = this;
    const before = { before: position(firstEpoch, first), limit: PAGE };
    const after = { after: position(nextEpoch, next), limit: Math.min(PAGE, live - next) };
    this.busy = true;
    try {
      const page = await client.page(session, older ? before : after);
      const fits = view === this && this.history === history && (older ? this.first === first : this.next === next);
      if (fits && older) {
        this.still(() => this.add(page.records, 'prepend', 'unshift'));
        Object.assign(this, { first: page.from, firstEpoch: page.epoch, start: page.start });
        this.trim('pop');
      } else if (fits) {
        this.append(page.records, page.next);
        this.nextEpoch = page.epoch;
        this.still(() => this.trim('shift'));
      }
      this.busy = false;
      this.moved();
    } catch (error) {
      this.busy = false; // scrolling on tries again
      if (view === this) this.note(error.message);
    }
  }
  /** The rows, or the place among them, changed: keeps to the end, or reads what the reader is about to need. */
  moved() {
    if (view !== this) return;
    if (this.stick) log.scrollTop = log.scrollHeight;
    this.lastTop = log.scrollTop;
    $('jump').hidden = this.stick;
    showState();
    if (this.busy || this.epoch === null) return;
    if (this.next < this.live && (this.stick || bottom() < NEAR)) this.read(false);
    else if (log.scrollTop < NEAR && this.first > this.start) this.read(true);
  }
  scrolled() {
    const up = log.scrollTop < this.lastTop;
    if (up && bottom() > 4) this.stick = false;
    else if (!up && bottom() < 40 && this.next >= this.live) this.stick = true;
    this.moved();
  }
  /** To the end, which is read anew when it is not in the document. */
  jump() {
    if (this.next < this.live) this.reset(this.epoch, this.live);
    this.stick = true;
    this.moved();
  }
  row({ epoch, offset, sender = {}, producer, headers = {}, kind = 0, type, timeMs, ...body }) {
    // A piece of one has no headers, and is told by the id of its message.
    const named = headers['longwire-stream'] ?? (kind === KINDS.DELTA ? body.message.split('-')[1] : '');
    const stream = ['stdout', 'stderr'].find((name) => name === named);
    const exit = type === 'longwire.exit';
    const entity = says({ kind, ...body });
    const said = !stream && !exit && kind !== SESSION && kind !== TOMBSTONE && !entity && kind !== KINDS.DELTA;
    const mine = producer?.id === this.producer.id;
    const by = mine ? ['You'] : [sender.principal, sender.device, sender.via && `via ${sender.via}`];
    const plain = { [SESSION]: 'The session was changed.', [TOMBSTONE]: 'This message was erased.' }[kind];
    const text = visible(plain ?? words({ kind, ...body }));
    const shown = element('span', 'text', text.slice(0, ROW_CHARS_MAX));
    const block = element('div', '', '', shown);
    if (said || entity) block.prepend(element('span', 'who', [...by, kind > KINDS.LEASE && `kind ${kind}`, type].filter(Boolean).join(' · ')));
    const rest = button(`Show all ${text.length} characters`, () => (rest.remove(), (shown.textContent = text)));
    if (text.length > ROW_CHARS_MAX) block.append(rest);
    const time = new Date(Number(timeMs));
    const clock = element('time', '', time.toLocaleTimeString([], { hourCycle: 'h23' }));
    clock.title = time.toLocaleString();
    const row = element('li', `row ${said ? 'said' : stream ?? 'event'} ${mine ? 'mine' : ''}`, '', clock, block);
    if (exit && headers['longwire-exit-status'] !== '0') row.classList.add('failed');
    row.dataset.offset = offset;
    row.hidden = kind === KINDS.DELTA && text === ''; // it ends well, and says nothing else
    const made = { element: row, epoch, offset, last: offset, chars: text.length };
    // A message that grows is one row as long as nothing comes between, and until the row is long.
    const message = kind === KINDS.DELTA ? body.message : body.grows && body.id;
    made.takes = (next) => {
      const more = visible(words(next));
      const joins = message && next.kind === KINDS.DELTA && next.message === message && next.epoch === epoch;
      if (!joins || made.chars + more.length > ROW_CHARS_MAX) return false;
      shown.append(more);
      Object.assign(made, { last: next.offset, chars: made.chars + more.length });
      row.hidden &&= more === '';
      return true;
    };
    return made;
  }
  send(text) {
    const id = randomId();
    const { element: row } = this.row({ text, timeMs: Date.now(), producer: this.producer });
    const say = (...words) => row.querySelector('.who').replaceChildren(...words);
    const refused = ({ code, message }) => {
      const never = code === 'forbidden';
      row.classList.add('failed');
      say(visible(`Not sent: ${message} `), never ? '' : button('Send again', publish));
      if (never && view === this) this.note('You may read this session, and not write to it.'), ($('fields').disabled = true);
    };
    const publish = () => {
      row.classList.remove('failed');
      say('You · sending…');
      unsent++;
      this.producer.publish([{ id, text }]).then(() => say('You · saved'), refused).finally(() => unsent--);
    };
    this.pending.set(id, row);
    $('pending').append(row);
    publish();
    this.jump();
  }
}
const bottom = () => log.scrollHeight - log.scrollTop - log.clientHeight;
let listed = { count: 0, page: '', ticket: 0 };
async function list(more = false) {
  const ticket = ++listed.ticket;
  const wish = { prefix: $('prefix').value, page: more ? listed.page : '', limit: more ? PAGE : Math.max(PAGE, listed.count) };
  const found = await client.ask('listSessions', wish).catch(() => null);
  if (!found || ticket !== listed.ticket || view) return;
  const items = (found.sessions ?? []).map(({ session, meta, start = 0, end = 0, lastTimeMs = 0, closed }) => {
    const count = `${(end - start).toLocaleString()} record${end - start === 1 ? '' : 's'}`;
    const time = new Date(Number(lastTimeMs)).toLocaleString([], { dateStyle: 'short', timeStyle: 'short' });
    const words = [['b', meta?.title || session], ['span', time],
      ['code', meta?.title && session], ['span', closed ? `closed · ${count}` : count]];
    const link = element('a', '', '', ...words.map(([name, text]) => element(name, '', text)));
    return element('li', '', '', Object.assign(link, { href: `#/s/${session}` }));
  });
  const focused = document.activeElement.hash;
  $('sessions')[more ? 'append' : 'replaceChildren'](...items);
  [...$('sessions').querySelectorAll('a')].find(({ hash }) => hash === focused)?.focus();
  Object.assign(listed, { count: $('sessions').children.length, page: found.nextPage ?? '' });
  [$('more').hidden, $('empty').hidden] = [!listed.page, listed.count > 0];
}
function route() {
  view?.leave();
  const [, session] = /^#\/s\/([\w.~/-]+)$/.exec(location.hash) ?? [];
  view = session ? new View(session) : null;
  $('list').hidden = Boolean(session);
  log.hidden = $('send').hidden = !session;
  $('fields').disabled = false;
  if (!session) showTitle('Longwire'), list();
  showState();
}
const on = (target, name, then) => target.addEventListener(name, then);
on($('send'), 'submit', (event) => {
  event.preventDefault();
  if ($('message').value.trim()) view.send($('message').value);
  Object.assign($('message'), { value: '', rows: 1 });
});
on($('message'), 'input', ({ target }) => (target.rows = Math.min(8, target.value.split('\n').length)));
on($('message'), 'keydown', (event) => {
  // On a phone Enter begins a line: there is a button to send.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || matchMedia('(pointer: coarse)').matches) return;
  event.preventDefault();
  $('send').requestSubmit();
});
on($('jump'), 'click', () => view.jump()), on($('more'), 'click', () => list(true));
on($('prefix'), 'input', () => ((listed.count = 0), list()));
on(log, 'scroll', () => view?.scrolled());
new ResizeObserver(() => view?.moved()).observe(log);
setInterval(() => view || document.hidden || client.state !== 'open' || listed.count > LIST_MAX || list(), LIST_EVERY_MS);
for (const name of ['visibilitychange', 'online', 'pageshow']) on(window, name, () => document.hidden || client.check());
on(window, 'beforeunload', (event) => unsent && event.preventDefault());
on(window, 'hashchange', () => (takeToken() ? location.reload() : route()));
route();
client.connect();
