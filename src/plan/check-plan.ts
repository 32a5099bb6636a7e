// Check plan: a plan file from anywhere, read with every field looked at. It is acted on with privileges, so nothing of it is
// taken on trust.
//
//   text ──JSON──> value ──shapes──> every field there, of its type, no other field ──invariants──> Plan
//                    └── the first thing that is wrong, with where: "units[0].steps[2].action.block: ..."
//
// Shapes are data, typed by plan.ts: a field that is added there does not compile until it is looked at here. What is refused
// beyond types:
//
//   - actions and conditions outside the closed lists; fields that plan.ts does not know
//   - ids that QEMU would not take (a letter, then letters, digits, "-._"): they go into requests and command lines
//   - control characters in sentences: they go to terminals
//   - a hash that is not that of its lines; step numbers that do not ascend from 1
//   - a step without undo that is not the last of its unit
//   - a step whose effect does not name what its action changes: "done" would mean nothing
//
// Never throws. Cost O(text).

import { err, ok, type Result } from '#base/result';
import { isDeviceId } from './goal.ts';
import { hashLines } from './observation.ts';
import { type Action, type Condition, PLAN_VERSION, type Plan, type Step } from './plan.ts';

/** @returns undefined when all is well, else one sentence without its subject */
type Check = (value: unknown, where: string) => string | undefined;
type Field = Check | { readonly optional: Check };
type Fields<T> = { readonly [K in keyof Required<T>]: Field };

const wrong = (where: string, expected: string, value: unknown): string =>
  `${where === '' ? 'the plan' : where}: ${expected} is expected, not ${show(value)}`;

function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 40 ? `${text.slice(0, 37)}..."` : text;
}

const at = (where: string, key: string): string => (where === '' ? key : `${where}.${key}`);

// ----------------------------------------------------------------------------------------------------------- shapes

const isObject = (v: unknown): v is Readonly<Record<string, unknown>> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

/** Exactly these fields. */
const record =
  <T>(fields: Fields<T>): Check =>
  (value, where) => {
    if (!isObject(value)) return wrong(where, 'an object', value);
    for (const [key, field] of Object.entries<Field>(fields)) {
      const there = Object.hasOwn(value, key);
      if (!there && typeof field !== 'function') continue;
      const check = typeof field === 'function' ? field : field.optional;
      const problem = check(there ? value[key] : undefined, at(where, key));
      if (problem !== undefined) return problem;
    }
    const extra = Object.keys(value).find((key) => !Object.hasOwn(fields, key));
    return extra === undefined ? undefined : `${at(where, extra)}: there is no such field`;
  };

/** One of several records, told apart by a field. */
const union =
  <V extends string>(tag: string, shapes: Readonly<Record<V, Check>>): Check =>
  (value, where) => {
    if (!isObject(value)) return wrong(where, 'an object', value);
    const word = value[tag];
    if (typeof word !== 'string' || !Object.hasOwn(shapes, word))
      return wrong(at(where, tag), `one of ${Object.keys(shapes).join(', ')}`, word);
    return shapes[word as V](value, where); // it is a key, just looked up
  };

const list =
  (check: Check): Check =>
  (value, where) => {
    if (!Array.isArray(value)) return wrong(where, 'a list', value);
    for (let k = 0; k < value.length; k++) {
      const problem = check(value[k], `${where}[${k}]`);
      if (problem !== undefined) return problem;
    }
    return undefined;
  };

const oneOf =
  (...words: readonly (string | number)[]): Check =>
  (value, where) =>
    words.includes(value as string)
      ? undefined
      : wrong(where, words.length === 1 ? show(words[0]) : `one of ${words.join(', ')}`, value);

const flag: Check = (value, where) => (typeof value === 'boolean' ? undefined : wrong(where, 'true or false', value));

const whole =
  (least: number, most = Number.MAX_SAFE_INTEGER): Check =>
  (value, where) =>
    typeof value === 'number' && Number.isSafeInteger(value) && least <= value && value <= most
      ? undefined
      : wrong(where, `a whole number from ${least}${most === Number.MAX_SAFE_INTEGER ? '' : ` to ${most}`}`, value);

const amount: Check = (value, where) =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0
    ? undefined
    : wrong(where, 'a number, not negative,', value);

const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

/** For people: printed to terminals. */
const sentence: Check = (value, where) =>
  typeof value === 'string' && !CONTROL.test(value)
    ? undefined
    : wrong(where, 'text without control characters', value);

const id: Check = (value, where) =>
  typeof value === 'string' && isDeviceId(value)
    ? undefined
    : wrong(where, 'an id (a letter, then letters, digits, "-", "." or "_")', value);

const optional = (check: Check): Field => ({ optional: check });

// ------------------------------------------------------------------------------------------------------------ lists

const MAX_BLOCK = 2 ** 25;
const block = whole(0, MAX_BLOCK);
const bytes = whole(0);
const node = whole(0, 1023);
const autoOnline = oneOf('offline', 'online', 'online_kernel', 'online_movable');
const zone: Check = oneOf('DMA', 'DMA32', 'Normal', 'HighMem', 'Movable', 'Device');

type ActionOf<V extends Action['do']> = Extract<Action, { do: V }>;
type ConditionOf<V extends Condition['is']> = Extract<Condition, { is: V }>;

const ACTIONS: { readonly [V in Action['do']]: Check } = {
  'offline-block': record<ActionOf<'offline-block'>>({ do: sentence, block }),
  'online-block': record<ActionOf<'online-block'>>({
    do: sentence,
    block,
    zone: oneOf('movable', 'kernel', 'default'),
  }),
  'add-dimm': record<ActionOf<'add-dimm'>>({ do: sentence, id, memdev: id, bytes: whole(1), node, addr: bytes }),
  'remove-dimm': record<ActionOf<'remove-dimm'>>({ do: sentence, id, memdev: id }),
  'resize-virtio-mem': record<ActionOf<'resize-virtio-mem'>>({ do: sentence, id, bytes }),
  balloon: record<ActionOf<'balloon'>>({ do: sentence, bytes: whole(1) }),
  'drop-caches': record<ActionOf<'drop-caches'>>({ do: sentence, what: oneOf(1, 2, 3) }),
  compact: record<ActionOf<'compact'>>({ do: sentence, node: optional(node) }),
  'set-hugepages': record<ActionOf<'set-hugepages'>>({
    do: sentence,
    node: optional(node),
    pageBytes: whole(1),
    pages: whole(0),
  }),
  'auto-online': record<ActionOf<'auto-online'>>({ do: sentence, word: autoOnline }),
};

const CONDITIONS: { readonly [V in Condition['is']]: Check } = {
  block: record<ConditionOf<'block'>>({ is: sentence, block, state: oneOf('online', 'offline'), zone: optional(zone) }),
  blocks: record<ConditionOf<'blocks'>>({ is: sentence, first: block, last: block, present: flag }),
  dimm: record<ConditionOf<'dimm'>>({ is: sentence, id, present: flag }),
  'virtio-mem': record<ConditionOf<'virtio-mem'>>({
    is: sentence,
    id,
    requested: optional(bytes),
    size: optional(bytes),
  }),
  balloon: record<ConditionOf<'balloon'>>({ is: sentence, bytes }),
  'free-chunks': record<ConditionOf<'free-chunks'>>({ is: sentence, order: whole(0, 10), atLeast: whole(0) }),
  hugepages: record<ConditionOf<'hugepages'>>({
    is: sentence,
    node: optional(node),
    pageBytes: whole(1),
    atLeast: whole(0),
  }),
  'auto-online': record<ConditionOf<'auto-online'>>({ is: sentence, word: autoOnline }),
};

const action = union('do', ACTIONS);
const conditions = list(union('is', CONDITIONS));
const figure = record<{ value: number; provenance: string }>({
  value: amount,
  provenance: oneOf('measured', 'derived', 'assumed'),
});

type GoalOf<V extends Plan['goal']['verb']> = Extract<Plan['goal'], { verb: V }>;
const GOALS: { readonly [V in Plan['goal']['verb']]: Check } = {
  remove: record<GoalOf<'remove'>>({ verb: sentence, target: sentence, bytes: optional(whole(1)) }),
  add: record<GoalOf<'add'>>({ verb: sentence, bytes: whole(1), node }),
  resize: record<GoalOf<'resize'>>({ verb: sentence, bytes: whole(1) }),
  contiguous: record<GoalOf<'contiguous'>>({
    verb: sentence,
    chunks: whole(1),
    order: whole(0, 10),
    hugePages: flag,
  }),
};

const step = record<Step>({
  n: whole(1),
  title: sentence,
  action,
  expect: conditions,
  effect: conditions,
  bestEffort: optional(flag),
  predicts: record<Step['predicts']>({ pagesToMove: optional(figure), bytesFreed: optional(figure), ms: figure }),
  risk: optional(sentence),
  undo: optional(list(action)),
  deadlineMs: whole(1, 24 * 3600 * 1000),
});

const PLAN = record<Plan>({
  dimmer: oneOf('plan'),
  version: oneOf(PLAN_VERSION),
  goal: union('verb', GOALS),
  host: record<Plan['host']>({ kind: sentence, name: sentence, kernel: sentence }),
  assumes: record<Plan['assumes']>({ hash: sentence, lines: list(sentence) }),
  feasible: flag,
  summary: sentence,
  warnings: list(sentence),
  units: list(record<Plan['units'][number]>({ name: sentence, reaches: sentence, bytes, steps: list(step) })),
  rejected: list(record<Plan['rejected'][number]>({ name: sentence, reason: sentence })),
});

// ---------------------------------------------------------------------------------------------------------- reading

/** A plan from its text. @returns one sentence with the place of the first thing that is wrong */
export function readPlan(text: string): Result<Plan, string> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return err('the plan is no JSON document');
  }
  // Before all else: a file of something else, or of a later dimmer, is said to be that.
  if (!isObject(value) || value.dimmer !== 'plan') return err('this is not a plan: there is no "dimmer": "plan" in it');
  if (value.version !== PLAN_VERSION)
    return err(`the plan is of version ${show(value.version)}; this dimmer reads version ${PLAN_VERSION}`);
  const problem = PLAN(value, '') ?? checkPlan(value as Plan); // PLAN looked at every field
  return problem === undefined ? ok(value as Plan) : err(problem);
}

/** Invariants of a plan beyond its types, as in plan.ts. @returns one sentence with the place, or undefined */
export function checkPlan(plan: Plan): string | undefined {
  if (plan.assumes.hash !== hashLines(plan.assumes.lines)) return 'assumes.hash: it is not the hash of assumes.lines';
  let n = 0;
  for (const [u, unit] of plan.units.entries()) {
    for (const [k, s] of unit.steps.entries()) {
      const where = `units[${u}].steps[${k}]`;
      if (s.n !== ++n) return `${where}.n: ${n} is expected, not ${s.n}`;
      if (s.undo === undefined && k + 1 < unit.steps.length)
        return `${where}: only the last step of a unit may be without undo`;
      const backwards = [...s.expect, ...s.effect].find((c) => c.is === 'blocks' && c.last < c.first);
      if (backwards !== undefined) return `${where}: a range of blocks ends before it begins`;
      const own = ownEffect(s.action);
      if (own !== undefined && !s.effect.some(own))
        return `${where}.effect: it does not say what "${s.action.do}" changes`;
    }
  }
  return undefined;
}

/** What must be among the effects of an action, where that can be said. */
function ownEffect(a: Action): ((c: Condition) => boolean) | undefined {
  switch (a.do) {
    case 'offline-block':
      return (c) => c.is === 'block' && c.block === a.block && c.state === 'offline';
    case 'online-block':
      return (c) => c.is === 'block' && c.block === a.block && c.state === 'online';
    case 'add-dimm':
      return (c) => c.is === 'dimm' && c.id === a.id && c.present;
    case 'remove-dimm':
      return (c) => c.is === 'dimm' && c.id === a.id && !c.present;
    case 'resize-virtio-mem':
      return (c) => c.is === 'virtio-mem' && c.id === a.id && (c.requested === a.bytes || c.size === a.bytes);
    case 'balloon':
      return (c) => c.is === 'balloon' && c.bytes === a.bytes;
    case 'auto-online':
      return (c) => c.is === 'auto-online' && c.word === a.word;
    default:
      return undefined; // drop-caches, compact, set-hugepages: as much as comes about
  }
}
