// What asks, runs, agents and pieces of messages say, and what is asked right now, with what answers it.
import { visible } from './text.js';
const [DELTA, RUN, ASK, ANSWER, INPUT, CANCEL, STATE, LEASE] = [1, 2, 3, 4, 5, 6, 7, 9];
export const KINDS = { DELTA, RUN, ASK, ANSWER, LEASE };
const listed = (words) => words.filter(Boolean).join(' · ');
const chosen = ({ option, values = {} }) =>
  option || Object.entries(values).map(([name, value]) => `${name}: ${Object.values(value)[0]}`).join(', ');
/** What a record of these kinds says, as one text; `undefined` for another one. */
export function says({ kind, id, run, replyTo, to = [], mode, text = '', ask = {}, answer = {}, runChange = {}, cancel = {}, receipt, stateChange, leaseChange = {}, close }) {
  if (kind === ASK) return listed([`Asked: ${ask.title}`, ask.subject, ask.risk && `${ask.risk} risk`]);
  if (kind === ANSWER) return listed([answer.outcome ? `${replyTo} is ${answer.outcome}` : `Answered: ${chosen(answer)}`, answer.note]);
  const { title, state, fraction, note } = runChange;
  const done = fraction !== undefined && `${Math.round(fraction * 100)} %`;
  if (kind === RUN) return listed([title || run || id, state || (id && 'started'), done, note]);
  if (kind === INPUT && receipt) return listed([`${replyTo} is ${receipt.state.replace('_', ' ')}`, receipt.reason]);
  if (kind === INPUT) return listed([`To ${to[0]}${mode ? ` (${mode})` : ''}: ${text}`]);
  if (kind === CANCEL) return listed([`The run ${run} is to end`, cancel.reason]);
  if (kind === STATE && stateChange) return `${stateChange.key} is ${stateChange.text ?? (stateChange.data ? '(data)' : 'removed')}`;
  if (kind === LEASE) return listed([`The agent ${leaseChange.agent} is ${leaseChange.state}`, leaseChange.reason]);
  return kind === DELTA && close && close !== 'complete' ? `(${close})` : undefined;
}
const made = (name, className, text = '', ...children) => {
  const element = Object.assign(document.createElement(name), { className, textContent: visible(text) });
  return element.append(...children), element;
};
const option = ({ id, label }) => Object.assign(made('option', '', label || id), { value: id });
/** The input of one field, and what it says: `undefined` when it was left out. */
function input({ type, values = [], required, minimum, maximum, lengthMin, lengthMax }) {
  const isNumber = type === 'number' || type === 'integer';
  const element = document.createElement(type === 'enum' ? 'select' : 'input');
  if (type === 'enum') element.append(...(required ? [] : [option({ id: '' })]), ...values.map(option));
  else if (type === 'boolean') element.type = 'checkbox';
  else if (isNumber) Object.assign(element, { type: 'number', min: minimum ?? '', max: maximum ?? '', step: type === 'integer' ? 1 : 'any' });
  if (type === 'string' && lengthMin) element.minLength = lengthMin;
  if (type === 'string' && lengthMax) element.maxLength = lengthMax;
  element.required = Boolean(required) && type !== 'boolean';
  const value = () => {
    if (type === 'boolean') return { boolean: element.checked };
    if (element.value === '') return undefined;
    return isNumber ? { number: Number(element.value) } : { string: element.value };
  };
  return { element, value };
}
/** The card of an open ask. `send(record)` publishes, and rejects with why not. */
export function card({ id, principal, to = [], ask = {} }, send) {
  const { title, description, subject, risk, roles = [], options = [], fields = [], expiresAtMs } = ask;
  const whom = [...to, ...roles].join(', ');
  const until = expiresAtMs && `until ${new Date(Number(expiresAtMs)).toLocaleString()}`;
  const said = made('p', 'note');
  said.setAttribute('role', 'status');
  const answer = async (what) => {
    set.disabled = true;
    said.textContent = 'Sending…';
    try {
      await send({ kind: ANSWER, replyTo: id, answer: what });
      said.textContent = 'Sent.';
    } catch ({ code, message, resolved }) {
      const [by, how] = [resolved?.by, resolved && (chosen(resolved.answer ?? {}) || resolved.outcome)];
      said.textContent = visible(code === 'already_resolved' ? `${by} was first: ${how}` : message);
      set.disabled = code === 'already_resolved' || code === 'forbidden' || code === 'not_addressed';
    }
  };
  const inputs = fields.map((field) => ({ field, ...input(field) }));
  const labels = inputs.map(({ field, element }) => made('label', '', field.title || field.name, element));
  const buttons = options.map((found) => made('button', '', found.label || found.id));
  buttons.forEach((button, index) => Object.assign(button, { type: 'button', onclick: () => answer({ option: options[index].id }) }));
  if (fields.length) buttons.push(Object.assign(made('button', '', 'Answer'), { type: 'submit' }));
  buttons.push(Object.assign(made('button', '', 'Decline'), { type: 'button', onclick: () => answer({ outcome: 'denied' }) }));
  const set = made('fieldset', '', '', ...labels, ...buttons);
  const head = made('strong', '', title);
  const form = made('form', `ask ${['low', 'medium', 'high'].includes(risk) ? risk : ''}`, '', head);
  form.append(made('span', 'who', listed([principal, whom && `asks ${whom}`, risk && `${risk} risk`, until])));
  if (subject) form.append(made('code', '', subject));
  if (description) form.append(made('span', 'text', description));
  form.append(set, said);
  form.onsubmit = (event) => {
    event.preventDefault();
    const filled = inputs.map(({ field, value }) => [field.name, value()]).filter(([, value]) => value);
    answer({ values: Object.fromEntries(filled) });
  };
  form.dataset.ask = id;
  return form;
}
