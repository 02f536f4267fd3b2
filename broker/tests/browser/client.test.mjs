// What client.js and text.js decide without a connection; `node --test` runs it.
import assert from 'node:assert/strict';
import test from 'node:test';
import { readFile } from 'node:fs/promises';

// The broker serves them as modules; to Node.js their names do not say so.
const load = async (name) => {
  const text = await readFile(new URL(`../../web/${name}`, import.meta.url));
  return import(`data:text/javascript;base64,${text.toString('base64')}`);
};
const { Cursor, backoffMs, position, randomId } = await load('client.js');
const { bodyText, visible } = await load('text.js');

test('a position has both parts in 16 digits', () => {
  assert.equal(position(0, 42), '0000000000000000_0000000000000042');
  assert.equal(position(7, 2 ** 53 - 1), '0000000000000007_9007199254740991');
});

test('waiting is jittered in full and bounded', () => {
  assert.equal(backoffMs(0, () => 0), 0);
  assert.equal(backoffMs(3, () => 1), 800);
  assert.equal(backoffMs(5_000, () => 1), 10_000);
});

test('ids are short ids', () => {
  assert.match(randomId(), /^[0-9a-f]{32}$/);
  assert.notEqual(randomId(), randomId());
});

test('a cursor resumes behind what was handed on', () => {
  const cursor = new Cursor({ last: 2 });
  assert.deepEqual(cursor.wanted(), { last: 2 });
  assert.ok(cursor.subscribed({ outcome: 'resumed', exists: true, epoch: '3', from: '5', end: '7' }));
  const delivery = { epoch: '3', from: '5', next: '7', records: [{ text: 'a' }, { text: 'b' }] };
  assert.deepEqual(cursor.delivery(delivery), [{ text: 'a', epoch: 3, offset: 5 }, { text: 'b', epoch: 3, offset: 6 }]);
  // It was not handed on: the next connection asks for it again.
  assert.deepEqual(cursor.wanted(), { position: position(3, 5) });
  cursor.took(delivery);
  assert.deepEqual(cursor.wanted(), { position: position(3, 7) });
  assert.throws(() => cursor.subscribed({ outcome: 'resumed', exists: true, epoch: '3', from: '8' }));
});

test('deliveries that do not join are refused', () => {
  const cursor = new Cursor({ start: true });
  const epoch = '2';
  cursor.subscribed({ outcome: 'from_start', exists: true, epoch });
  for (const [wrong, delivery] of Object.entries({
    'a gap': { epoch, from: '1', next: '2', records: [{}] },
    'an earlier epoch': { epoch: '1', next: '1', records: [{}] },
    'too few records': { epoch, next: '2', records: [{}] },
    'too many records': { epoch, next: '1', records: [{}, {}] },
  })) {
    assert.throws(() => cursor.delivery(delivery), undefined, wrong);
  }
  // A later epoch goes on where the log was forked, imported or restored.
  const sparse = { epoch: '3', next: '9', records: [{}, {}], offsets: ['2', '7'] };
  assert.deepEqual(cursor.delivery(sparse).map(({ offset }) => offset), [2, 7]);
});

test('a session that comes later is read from its start, in whatever epoch', () => {
  const cursor = new Cursor({ end: true });
  assert.ok(cursor.subscribed({ outcome: 'resumed' }));
  assert.deepEqual(cursor.wanted(), { start: true });
  const delivery = { epoch: '2', next: '1', records: [{}] };
  assert.equal(cursor.delivery(delivery)[0].offset, 0);
  cursor.took(delivery);
  assert.deepEqual(cursor.wanted(), { position: position(2, 1) });
});

test('every outcome is answered to', () => {
  const read = (outcome) => new Cursor({ offset: 9 }).subscribed({ outcome, exists: true, from: '4' });
  assert.ok(read('gap') && read('epoch_changed') && read('from_start'));
  assert.ok(!read('closed') && !read('future_position') && !read('of a later version'));
  assert.throws(() => read('resumed'));
});

test('what could hide, reorder or command is made visible', () => {
  assert.equal(visible('\u001b[2J\r\0\u007f'), '^[[2J^M^@^?');
  assert.equal(visible('a\u202eb\u2066\u200b\ufeff\u{e0041}'), 'a⟨U+202E⟩b⟨U+2066⟩⟨U+200B⟩⟨U+FEFF⟩⟨U+E0041⟩');
  assert.equal(visible('tab\tline\n<b> 👩‍💻 שלום é'), 'tab\tline\n<b> 👩‍💻 שלום é');
});

test('bytes are text where they can be', () => {
  assert.equal(bodyText({}), '');
  assert.equal(bodyText({ text: 'x' }), 'x');
  assert.equal(bodyText({ data: btoa('\xc3\xa9\xff') }), 'é\ufffd');
});
