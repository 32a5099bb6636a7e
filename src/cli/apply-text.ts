// Applying as text: what is about to be done, each step as it comes out, and what was reached.
//
//   before     the machine and the steps that are new to whoever is asked y/N
//   meanwhile  stdout: one line a step that is over; stderr, on a terminal only: the step that is under way, with the time
//   after      one sentence, each unit, what is left and the command that puts it right, what to type next
//
//     1/3 done     offline block 35 (0x118000000, Movable, node 1)   142ms (predicted 4.1ms)
//     2/3 refused  offline block 34 (0x110000000, Movable, node 1)   EBUSY: the kernel refused
//         undone   online block 35 (movable)

import { formatSize, plural } from '#base/format';
import type { Progress as Event } from '#control/executor';
import type { JournalEntry } from '#control/journal';
import type { ExecutionReport, UnitReport } from '#control/report';
import { sizeWord } from '#plan/goal';
import { type Plan, type Step, sayAction } from '#plan/index';
import { formatMs, hanging, type Paint, paint } from './style.ts';

export type ApplyStyle = { readonly colour: boolean; readonly width: number | undefined };

type StepResult = Extract<JournalEntry, { kind: 'outcome' }>['result'];

const PAINT: Readonly<Record<StepResult, Paint>> = {
  done: 'green',
  already: 'green',
  short: 'yellow',
  refused: 'red',
  deadline: 'red',
  lost: 'red',
  cancelled: 'yellow',
  stale: 'red',
  failed: 'red',
};
/** "cancelled" and "deadline" are nine and eight long. */
const WORD = 9;

/** Turns what the executor tells into lines. */
export class ApplyLines {
  readonly #steps: ReadonlyMap<number, Step>;
  readonly #style: ApplyStyle;
  readonly #count: number;
  /** When the step under way was begun, by the caller's clock. */
  #began: number | undefined;
  #undo: string | undefined;

  constructor(plan: Plan, style: ApplyStyle) {
    const steps = plan.units.flatMap((u) => u.steps);
    this.#steps = new Map(steps.map((s) => [s.n, s]));
    this.#count = steps.length;
    this.#style = style;
  }

  /** The line that rewrites itself while something goes on; undefined: as it was. "" takes it away. */
  live(e: Event): string | undefined {
    switch (e.kind) {
      case 'intent':
        return `${this.#number(e.step)} ${this.#title(e.step)}`;
      case 'waiting':
        return `${this.#number(e.step)} ${e.what}  ${formatMs(e.waitedMs)}${this.#predicted(e.step)}`;
      case 'undo':
        return `${this.#blank()} ${sayAction(e.action)}`;
      case 'outcome':
      case 'undone':
      case 'end':
        return '';
      default:
        return undefined;
    }
  }

  /** What is to stay of an event, with newlines; "" for nothing. @param nowMs  of any clock that goes evenly */
  lasting(e: Event, nowMs: number): string {
    const { colour, width } = this.#style;
    switch (e.kind) {
      case 'intent':
        this.#began = nowMs;
        return '';
      case 'outcome': {
        const took = this.#began === undefined ? undefined : nowMs - this.#began;
        this.#began = undefined;
        const why =
          e.errno === undefined ? e.sentence : e.sentence.includes(e.errno) ? e.sentence : `${e.errno}: ${e.sentence}`;
        const word = paint(e.result.padEnd(WORD), PAINT[e.result], colour);
        const time = took === undefined ? '' : `  ${formatMs(took)}${this.#predicted(e.step)}`;
        const good = e.result === 'done' || e.result === 'already';
        const line = `${this.#number(e.step)} ${word} ${this.#title(e.step)}${good ? time : ''}\n`;
        return good ? line : `${line}${hanging('', `${' '.repeat(INDENT)}${why}`, { indent: INDENT, width })}\n`;
      }
      case 'unwind':
        return `${this.#blank()} ${paint('undoing'.padEnd(WORD), 'yellow', colour)} what this unit has done\n`;
      case 'undo':
        this.#undo = sayAction(e.action);
        return '';
      case 'undone': {
        const word = paint((e.ok ? 'undone' : 'stuck').padEnd(WORD), e.ok ? 'green' : 'red', colour);
        const why = e.ok ? '' : `: ${e.sentence}`;
        return `${this.#blank()} ${word} ${this.#undo ?? this.#title(e.step)}${why}\n`;
      }
      case 'keep':
        return `${this.#blank()} ${'keeping'.padEnd(WORD)} what was reached: ${sayAction(e.action)}\n`;
      default:
        return '';
    }
  }

  #title = (n: number): string => this.#steps.get(n)?.title ?? `step ${n}`;
  #width = (): number => String(this.#count).length;
  #number = (n: number): string => `${String(n).padStart(this.#width() + 2)}/${this.#count}`;
  #blank = (): string => ' '.repeat(this.#width() * 2 + 3);
  #predicted = (n: number): string => {
    const ms = this.#steps.get(n)?.predicts.ms.value;
    return ms === undefined ? '' : ` (predicted ${formatMs(ms)})`;
  };
}

const INDENT = 8;

const UNIT_WORD: Readonly<Record<UnitReport['outcome'], string>> = {
  done: 'done',
  short: 'stopped short',
  undone: 'undone: as it was before',
  left: 'neither done nor undone',
  'not-begun': 'not begun',
};

/** Of a dry run: what a copy of the machine made of the plan; `goes` is absent where it could not be tried. */
export type OnCopy = { readonly goes?: boolean; readonly sentence: string };

export type After = ApplyStyle & {
  readonly plan: Plan;
  /** The journal, where there is one. */
  readonly journal?: string;
  /** "--from qemu:...", or "". */
  readonly source: string;
  readonly copy?: OnCopy;
};

/** The last lines: what was reached, and what to do now. Ends with a newline. */
export function formatReport(r: ExecutionReport, { plan, journal, source, copy, colour, width }: After): string {
  const head = paint(HEADS[r.end], r.end === 'done' ? 'green' : r.end === 'partial' ? 'yellow' : 'red', colour);
  let text = `${hanging('', r.dryRun ? sayDryRun(r) : `${head}: ${r.sentence}`, { indent: 0, width })}\n`;
  if (!r.dryRun && (r.units.length > 1 || r.end === 'partial' || r.end === 'failed')) {
    for (const u of r.units) {
      const reached = u.reached === '' ? '' : `: ${u.reached}`;
      text += `${hanging('  ', `${u.name}: ${UNIT_WORD[u.outcome]}${reached}`, { indent: 4, width })}\n`;
    }
  }
  if (r.end === 'partial') text += `  reached in all: ${formatSize(r.reachedBytes)}\n`;
  for (const d of r.differs)
    text += `  now:    ${d.found ?? 'nothing'}\n  assumed: ${d.assumed ?? 'nothing'}\n`.replace(
      'now:    ',
      'now:     ',
    );
  for (const l of r.left) {
    text += `${hanging('  ', `step ${l.step}: ${l.sentence}`, { indent: 4, width })}\n`;
    for (const c of l.commands) text += `    ${c}\n`;
  }
  if (copy !== undefined) text += `${hanging('', sayCopy(copy), { indent: 0, width })}\n`;
  return text + nextOf(r, plan, journal, source);
}

const sayCopy = ({ goes, sentence }: OnCopy): string =>
  goes === undefined
    ? `Not tried on a copy: ${sentence}`
    : goes
      ? 'On a copy of the machine it goes through.'
      : `On a copy of the machine: ${sentence}`;

function sayDryRun(r: ExecutionReport): string {
  const steps = r.units.flatMap((u) => u.steps);
  const already = steps.filter((s) => s.result === 'already').length;
  const so = already === 0 ? '' : `, ${already} of them are so already`;
  return `Dry run, nothing was done: the machine is as the plan assumes; ${plural(steps.length, 'step')}${so}`;
}

const HEADS: Readonly<Record<ExecutionReport['end'], string>> = {
  done: 'Done',
  refused: 'Refused, and everything is as it was',
  deadline: 'Not in time, and everything is as it was',
  partial: 'In part',
  interrupted: 'Interrupted',
  stale: 'The plan is stale',
  unsupported: 'Not possible here',
  failed: 'Failed',
};

/** What to type now; "" where nothing follows. */
function nextOf(r: ExecutionReport, plan: Plan, journal: string | undefined, source: string): string {
  const again = `plan again: dimmer plan ${planWords(plan)}${source}`;
  switch (r.end) {
    case 'stale':
    case 'refused':
    case 'deadline':
      return `Next: ${again}\n`;
    case 'partial':
    case 'interrupted':
      return `Next: for the rest, ${again}\n`;
    case 'failed':
      return journal === undefined ? '' : `Next: dimmer apply --resume ${journal}${source}\n`;
    default:
      return '';
  }
}

/** The goal as `dimmer plan` takes it. */
function planWords({ goal }: Plan): string {
  switch (goal.verb) {
    case 'remove':
      return `remove ${goal.target}`;
    case 'add':
      return `add size:${sizeWord(goal.bytes)} node:${goal.node}`;
    case 'resize':
      return `resize size:${sizeWord(goal.bytes)}`;
    case 'contiguous':
      return `contiguous ${goal.chunks} --order ${goal.order}${goal.hugePages ? ' --hugepages' : ''}`;
  }
}
