// Journal text: lines with a chained sum, encoded and decoded.
//
//   {"seq":0,"at":"...","kind":"begin",...,"sum":"3f09..."}     sum 0 = hash(""    , line 0 without its sum)
//   {"seq":1,"at":"...","kind":"intent",...,"sum":"a17c..."}    sum 1 = hash(sum 0 , line 1 without its sum)
//   {"seq":2,"at":"...","ki                                     no newline: torn by a crash, dropped
//
// A line ends with a newline, which is written in the same append. So whatever has no newline was under way when the
// writer died; its append never came back, and nobody acted on it. All else must fit: a sum that is wrong in front of a
// newline means that somebody changed the file, and then nothing of it is believed. The sum is against accidents, not
// against forgers: what would be acted on is looked at as a plan file is (check-plan.ts), ways back by journal-replay.ts.
//
// Invariant: decode(any prefix of encoded lines) = the whole lines of that prefix, and where they end.

import { err, ok, type Result } from '#base/result';
import { readPlan } from '#plan/check-plan';
import { hashLines } from '#plan/observation';
import { PLAN_VERSION } from '#plan/plan';
import type { JournalEntry, JournalLine } from './journal.ts';

const SUM = /,"sum":"([0-9a-f]{16})"\}$/;

/** Writes the lines of one journal, one after the other. */
export class JournalEncoder {
  #seq: number;
  #sum: string;

  /** @param from  where a decoded journal ends; default: a new one */
  constructor(from: { readonly seq: number; readonly sum: string } = { seq: 0, sum: '' }) {
    this.#seq = from.seq;
    this.#sum = from.sum;
  }

  /** The next line with its newline. `at`: wall time, ISO 8601. */
  line(at: string, entry: JournalEntry): string {
    const body = JSON.stringify({ seq: this.#seq++, at, ...entry });
    this.#sum = hashLines([this.#sum, body]);
    return `${body.slice(0, -1)},"sum":"${this.#sum}"}\n`;
  }
}

export type DecodedJournal = {
  readonly lines: readonly JournalLine[];
  /** How much of the text the lines are, in UTF-16 units and in bytes of UTF-8: what follows is torn, and is cut off. */
  readonly length: number;
  readonly bytes: number;
  /** True when a torn line was dropped. */
  readonly torn: boolean;
  /** For the encoder that goes on. */
  readonly next: { readonly seq: number; readonly sum: string };
};

export type JournalProblem = {
  readonly reason: 'empty' | 'damaged' | 'newer' | 'other-host' | 'not-a-journal';
  /** 1-based; 0: the file as a whole. */
  readonly line: number;
  /** One sentence for people. */
  readonly sentence: string;
};

const problem = (reason: JournalProblem['reason'], line: number, sentence: string): JournalProblem => ({
  reason,
  line,
  sentence,
});

/** Keys that an entry of each kind cannot do without, and their types. */
const SHAPES: Readonly<Record<JournalEntry['kind'], Readonly<Record<string, string>>>> = {
  begin: { plan: 'object', host: 'object' },
  resume: {},
  intent: { step: 'number', action: 'object', before: 'list' },
  keep: { step: 'number', action: 'object' },
  outcome: { step: 'number', result: 'string', sentence: 'string', evidence: 'list' },
  unwind: { unit: 'number', end: 'string', sentence: 'string' },
  undo: { step: 'number', action: 'object' },
  undone: { step: 'number', ok: 'boolean', sentence: 'string' },
  unit: { unit: 'number', reached: 'string', reachedBytes: 'number', whole: 'boolean' },
  end: { end: 'string', sentence: 'string', reachedBytes: 'number' },
};

/** Cost O(length). A journal without one whole line is `empty`: nothing was begun. */
export function decodeJournal(text: string): Result<DecodedJournal, JournalProblem> {
  const lines: JournalLine[] = [];
  let sum = '';
  let at = 0;
  for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', at)) {
    const n = lines.length + 1;
    const raw = text.slice(at, end);
    const said = SUM.exec(raw);
    if (said === null) return err(problem(n === 1 ? 'not-a-journal' : 'damaged', n, `line ${n} has no sum`));
    const body = `${raw.slice(0, said.index)}}`;
    sum = hashLines([sum, body]);
    if (sum !== said[1]) return err(problem('damaged', n, `line ${n} does not have the sum that it says`));
    const line = parseLine(body, n);
    if (!line.ok) return line;
    lines.push(line.value);
    at = end + 1;
  }
  if (lines.length === 0) return err(problem('empty', 0, 'the journal has no whole line: nothing was begun'));
  const bytes = new TextEncoder().encode(text.slice(0, at)).length;
  return ok({ lines, length: at, bytes, torn: at < text.length, next: { seq: lines.length, sum } });
}

const isObject = (v: unknown): v is Readonly<Record<string, unknown>> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

function parseLine(body: string, n: number): Result<JournalLine, JournalProblem> {
  let value: Readonly<Record<string, unknown>>;
  try {
    value = JSON.parse(body) as typeof value; // an object: the text ends with a brace and has a sum
  } catch {
    return err(problem('damaged', n, `line ${n} is not JSON`));
  }
  const shape = typeof value.kind === 'string' ? SHAPES[value.kind as JournalEntry['kind']] : undefined;
  if (shape === undefined) return err(problem('newer', n, `line ${n} is of a kind that this dimmer does not know`));
  if (value.seq !== n - 1) return err(problem('damaged', n, `line ${n} says that it is number ${String(value.seq)}`));
  if ((n === 1) !== (value.kind === 'begin')) {
    return err(problem('damaged', n, n === 1 ? 'the first line is no begin' : `line ${n} begins a second time`));
  }
  for (const [key, type] of Object.entries(shape)) {
    const found = value[key];
    const isGood = type === 'list' ? Array.isArray(found) : type === 'object' ? isObject(found) : typeof found === type;
    if (!isGood) return err(problem('damaged', n, `line ${n} has no ${key}`));
  }
  if (isObject(value.plan)) {
    const { version } = value.plan;
    if (typeof version === 'number' && version > PLAN_VERSION) {
      return err(problem('newer', n, `its plan is of version ${version}, this dimmer knows ${PLAN_VERSION}`));
    }
    // As strict as with a plan file: it is acted on with the same privileges.
    const plan = readPlan(JSON.stringify(value.plan));
    if (!plan.ok) return err(problem('damaged', n, `its plan is none: ${plan.error}`));
  }
  return ok(value as unknown as JournalLine); // checked above: its kind's keys, by type
}
