// A client of Longwire for browsers: docs/protocol.md in its JSON form, and nothing that the broker's page alone needs.
const CONNECT_TIMEOUT_MS = 10_000; // for TCP, upgrade and welcome together
const RECONNECT_FIRST_MS = 100;
const RECONNECT_MOST_MS = 10_000;
const CHECK_MS = 3_000; // how long a connection has to prove itself when the device may have slept or moved
const PAUSE_MS = 1_000; // before a broker is asked again for what it got wrong, or could not do and did not say when
const WINDOW_BYTES = 256 << 10; // of records on their way to one subscription
const PUBLISHES_WAITING_MAX = 64; // of one producer; one more is refused rather than forgotten
/** What the broker, or this client, says against something. Go by `code`; `retryable`: it can succeed later. */
export class WireError extends Error {
  constructor({ code, message, retryable = false, retryAfterMs = 0, field = '' }) {
    super(message || code);
    Object.assign(this, { code, retryable, retryAfterMs: Number(retryAfterMs), field });
  }
}
const fail = (code, message) => new WireError({ code, message });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** The text of a position. */
export const position = (epoch, offset) => [epoch, offset].map((part) => String(part).padStart(16, '0')).join('_');
/** Full jitter. */
export const backoffMs = (attempt, random = Math.random) =>
  random() * Math.min(RECONNECT_MOST_MS, RECONNECT_FIRST_MS * 2 ** Math.min(attempt, 20));
/** A short id that nobody else has. (`randomUUID` exists in secure contexts only.) */
export const randomId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
const placed = (records, epoch, from, offsets) =>
  records.map((record, index) => ({ ...record, epoch, offset: offsets ? Number(offsets[index]) : from + index }));
/** How far a session was read: what to ask for next, and whether what comes joins what came. It knows no connection. */
export class Cursor {
  constructor(from) { Object.assign(this, { from, epoch: 0, next: null }); }
  wanted() { return this.next === null ? this.from : { position: position(this.epoch, this.next) }; }
  /** Takes a `subscribed` and says whether reading goes on. */
  subscribed({ outcome, exists = false, epoch = 0, from = 0 }) {
    if (!['resumed', 'from_start', 'gap', 'epoch_changed'].includes(outcome)) return false;
    const due = this.next ?? this.from.offset ?? Number(from);
    if (outcome === 'resumed' && due !== Number(from)) throw new Error(`resumed at ${from} when ${due} was due`);
    if (exists) Object.assign(this, { epoch: Number(epoch), next: Number(from) });
    else Object.assign(this, { from: { start: true }, next: null }); // whatever is there later came later
    return true;
  }
  /** The records of a delivery, with their offsets. `took` moves on, once they were handed on. */
  delivery({ epoch = 0, from = 0, next = 0, records = [], offsets }) {
    const due = this.next === null ? [Number(epoch), 0] : [this.epoch, this.next];
    const joins = Number(epoch) >= due[0] && Number(from) === due[1];
    if (!joins || records.length !== (offsets?.length ?? next - from)) {
      throw new Error(`${records.length} records of [${from}, ${next}), epoch ${epoch}, came when ${due} was due`);
    }
    return placed(records, Number(epoch), due[1], offsets);
  }
  took({ epoch = 0, next = 0 }) { Object.assign(this, { epoch: Number(epoch), next: Number(next) }); }
}
/**
 * One device of a principal. From `connect` to `close` it keeps a connection, and takes everything up again on the next.
 * `onState(state)`: `connecting`, `open`, `waiting` (for the next try), `closed` (for good; `error` says why).
 */
export class Client {
  #socket = null; #timers = {}; #attempt = 0; #number = 0; #opened = [];
  #requests = new Map(); #subscriptions = new Map();
  constructor(url, { device = '', name = 'longwire-js/0.1', token = '', onState = () => {} } = {}) {
    Object.assign(this, { url, device, name, token, onState, state: 'connecting', welcome: null, error: null });
  }
  connect() {
    this.#drop('connecting');
    const socket = (this.#socket = new WebSocket(this.url, ['longwire.v1.json']));
    this.#after('silence', CONNECT_TIMEOUT_MS, () => this.#lost());
    // What an earlier socket still has to say is not heard.
    const current = (then) => (event) => socket === this.#socket && then(event);
    socket.onopen = current(() => this.#send('hello', { device: this.device, client: this.name, token: this.token }));
    socket.onclose = current(() => this.#lost());
    socket.onmessage = current(({ data }) => {
      clearTimeout(this.#timers.check);
      try {
        for (const [kind, fields] of Object.entries(JSON.parse(data))) this.#take(kind, fields);
      } catch (error) {
        console.error('longwire:', error); // a delivery that was not handed on comes again
        this.#lost(PAUSE_MS);
      }
      if (this.welcome) this.#after('silence', 2 * Number(this.welcome.heartbeatMs), () => this.#lost());
    });
  }
  /** Call it when the device may have slept or changed its network: proves the connection, or replaces it at once. */
  check() {
    if (this.state === 'open') this.#send('ping', { token: 1 }), this.#after('check', CHECK_MS, () => this.#lost());
    if (this.state === 'connecting') this.#after('silence', CHECK_MS, () => this.#lost());
    if (this.state === 'waiting') this.connect();
  }
  close(error = fail('closed', 'the client was closed')) {
    this.error = error;
    this.#drop('closed');
    for (const subscription of this.#subscriptions.values()) this.#end(subscription, error.code, error);
  }
  /** One request on one connection. Rejects with `disconnected` when that ends before the answer. */
  async request(kind, fields) {
    while (this.state !== 'open') {
      if (this.state === 'closed') throw this.error;
      await new Promise((resolve) => this.#opened.push(resolve));
    }
    const request = ++this.#number;
    const frame = JSON.stringify({ [kind]: { request, ...fields } });
    const most = Number(this.welcome.limits.frameBytesMax);
    if (new TextEncoder().encode(frame).length > most) throw fail('frame_too_large', `this is above ${most} bytes`);
    this.#socket.send(frame);
    return new Promise((resolve, reject) => this.#requests.set(request, { resolve, reject }));
  }
  /** A request that may be carried out twice without harm: repeated until it is answered. */
  async ask(kind, fields) {
    for (let attempt = 0; ; attempt++) {
      const refused = await this.request(kind, fields).then((answer) => ({ answer }), (error) => error);
      if (refused.answer) return refused.answer;
      if (!refused.retryable) throw refused;
      if (refused.code !== 'disconnected') await sleep(refused.retryAfterMs || backoffMs(attempt));
    }
  }
  /**
   * Reads a session, across any number of connections. `deliver(records, frame)` gets every record once, in order, and
   * credit is given when what it returns has settled. `begun(frame)` gets each `subscribed`; `ended(code, error)` is last.
   */
  subscribe({ session, from, windowBytes = WINDOW_BYTES, deliver, begun = () => {}, ended = () => {} }) {
    const number = ++this.#number;
    const subscription = { number, session, cursor: new Cursor(from), windowBytes, deliver, begun, ended, end: 0 };
    subscription.cancel = () => {
      const was = this.#subscriptions.delete(number);
      if (was && this.state === 'open') this.request('unsubscribe', { subscription: number }).catch(() => {});
    };
    this.#subscriptions.set(number, subscription);
    if (this.state === 'open') this.#begin([subscription]);
    return subscription;
  }
  /** One page: the last records `before` a position, or the first ones `after` it. It is of one epoch. */
  async page(session, wish) {
    const answer = await this.ask('read', { session, ...wish });
    const { outcome, epoch = 0, start = 0, from = 0, next = 0, records = [], offsets } = answer;
    if (outcome !== 'resumed' && outcome !== 'gap') throw fail(outcome, 'the session was made anew');
    const found = { epoch: Number(epoch), start: Number(start), from: Number(from), next: Number(next) };
    return { ...found, records: placed(records, found.epoch, found.from, offsets) };
  }
  producer(session) { return new Producer(this, session); }
  #after(name, ms, then) { clearTimeout(this.#timers[name]), (this.#timers[name] = setTimeout(then, ms)); }
  #enter(state) {
    this.state = state;
    this.onState(state);
    if (state === 'open' || state === 'closed') this.#opened.splice(0).forEach((resolve) => resolve());
  }
  #drop(state) {
    Object.values(this.#timers).forEach(clearTimeout);
    const [socket, requests] = [this.#socket, this.#requests];
    [this.#socket, this.#requests, this.welcome] = [null, new Map(), null];
    socket?.close();
    this.#enter(state);
    const lost = new WireError({ code: 'disconnected', message: 'the connection ended', retryable: true });
    for (const { reject } of requests.values()) reject(this.error ?? lost);
  }
  #lost(afterMs = 0) {
    if (this.state === 'closed') return;
    this.#drop('waiting');
    this.#after('connect', afterMs + backoffMs(this.#attempt++), () => this.connect());
  }
  #send(kind, fields) { if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify({ [kind]: fields })); }
  #ping(everyMs) { this.#after('ping', everyMs, () => (this.#send('ping', { token: 1 }), this.#ping(everyMs))); }
  #begin(begin) {
    const subscriptions = begin.map(({ number, session, cursor, windowBytes }) =>
      ({ subscription: number, session, from: cursor.wanted(), windowBytes, wait: true }));
    if (begin.length) this.#send('subscribe', { request: ++this.#number, subscriptions });
  }
  #end(subscription, code, error = fail(code)) {
    if (!error.retryable) return this.#subscriptions.delete(subscription.number), subscription.ended(code, error);
    const socket = this.#socket; // a later connection resumes by itself
    const still = () => socket === this.#socket && this.#subscriptions.has(subscription.number);
    setTimeout(() => still() && this.#begin([subscription]), error.retryAfterMs || PAUSE_MS);
  }
  #take(kind, fields) {
    const subscription = this.#subscriptions.get(fields.subscription);
    const answer = this.#requests.get(Number(fields.request ?? 0));
    const error = fields.error && new WireError(fields.error);
    if (kind === 'welcome') {
      this.welcome = fields;
      this.#attempt = 0;
      this.#ping(Number(fields.idleTimeoutMs) / 3);
      this.#begin([...this.#subscriptions.values()]);
      this.#enter('open');
    } else if (kind === 'goodbye') {
      error.retryable ? this.#lost(Number(fields.reconnectAfterMs ?? 0)) : this.close(error);
    } else if (kind === 'delivery' && subscription) {
      const taken = subscription.deliver(subscription.cursor.delivery(fields), fields);
      subscription.cursor.took(fields);
      const credit = { subscription: subscription.number, consumedThrough: fields.next };
      Promise.resolve(taken).then(() => this.#send('credit', credit));
    } else if (kind === 'subscribed' && subscription) {
      subscription.end = Number(fields.end ?? 0);
      subscription.cursor.subscribed(fields) ? subscription.begun(fields) : this.#end(subscription, fields.outcome);
    } else if (kind === 'heartbeat') {
      for (const ends of fields.ends ?? []) Object.assign(this.#subscriptions.get(ends.subscription) ?? {}, { end: +(ends.end ?? 0) });
    } else if ((kind === 'subscriptionEnded' || kind === 'refused') && subscription) {
      this.#end(subscription, error.code, error);
    } else if (answer) {
      this.#requests.delete(Number(fields.request));
      error ? answer.reject(error) : answer.resolve(fields);
    }
  }
}
/** Publishes to one session, in order, one at a time: what is not answered is sent again under the same sequence. */
class Producer {
  #waiting = [];
  constructor(client, session) { Object.assign(this, { client, session, id: randomId(), sequence: 0 }); }
  /** Resolves to the `published`, once the records are on disk; rejects when they never will be. */
  publish(records) {
    const full = this.#waiting.length >= PUBLISHES_WAITING_MAX;
    if (full) return Promise.reject(fail('overloaded', 'too much waits to be sent'));
    return new Promise((resolve, reject) => this.#waiting.push({ records, resolve, reject }) === 1 && this.#run());
  }
  async #run() {
    for (; this.#waiting.length; this.#waiting.shift()) {
      const { records, resolve, reject } = this.#waiting[0];
      const producer = { id: this.id, sequence: this.sequence };
      try {
        resolve(await this.client.ask('publish', { session: this.session, records, producer }));
        this.sequence++; // a refusal would not have used it
      } catch (error) {
        // What the producer wrote is gone with the session that knew it: this is said once, and another one begins.
        if (error.code === 'producer_unknown') Object.assign(this, { id: randomId(), sequence: 0 });
        reject(error);
      }
    }
  }
}
