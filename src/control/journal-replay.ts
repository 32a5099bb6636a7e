// Journal replay: what the lines of a journal say about each step and unit, so that another executor can go on.
//
//   lines                                     step is              what resume does
//   (none)                                    open                 does it
//   intent                                    under way            decide.ts: done, wait, redo, undo
//   intent keep                               under way            asks for what was reached, again
//   outcome done, already, short              ended                nothing
//   outcome refused, deadline, ...            failed               unwinds its unit, unless it was best effort
//
//   lines                                     unit is
//   unit                                      finished             stays, whatever comes
//   unwind                                    being undone         the way back goes on; each step by what is observed
//
// Steps that were put back are looked for in the machine, not in the journal: an `undone` without an error is a claim of
// somebody who died, and looking costs nothing. Pure.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { AutoOnlineBlocks } from '#kernfs/memory-blocks';
import type { Action, Condition, OnlineZone, Plan, Step } from '#plan/plan';
import type { ExecutionEnd, JournalEntry, JournalLine, StepResult } from './journal.ts';
import type { JournalProblem } from './journal-text.ts';

/** What came of a step so far; open while `before` and `result` are both undefined. */
export type StepState = {
  readonly step: Step;
  /** Of the intent: it may have been asked for. */
  before: readonly Condition[] | undefined;
  undo: readonly Action[] | undefined;
  keep: Action | undefined;
  result: StepResult | undefined;
  sentence: string;
  evidence: readonly string[];
  errno: string | undefined;
};

export type UnitState = {
  finished: { readonly reached: string; readonly reachedBytes: number; readonly whole: boolean } | undefined;
  unwinding: { readonly end: ExecutionEnd; readonly sentence: string } | undefined;
};

export class Replay {
  readonly plan: Plan;
  /** By step number - 1. */
  readonly steps: readonly StepState[];
  readonly units: readonly UnitState[];
  end: { readonly end: ExecutionEnd; readonly sentence: string; readonly reachedBytes: number } | undefined;

  /** Nothing has happened yet. A plan whose steps are not numbered from 1 on is a bug of whoever read it. */
  constructor(plan: Plan) {
    this.plan = plan;
    this.steps = plan.units
      .flatMap((u) => u.steps)
      .map((step, k) => {
        assert(step.n === k + 1, 'steps are numbered from 1 through all units', { at: k, n: step.n });
        return {
          step,
          before: undefined,
          undo: undefined,
          keep: undefined,
          result: undefined,
          sentence: '',
          evidence: [],
          errno: undefined,
        };
      });
    this.units = plan.units.map(() => ({ finished: undefined, unwinding: undefined }));
  }

  stateOf(step: Step): StepState {
    const state = this.steps[step.n - 1];
    assert(state !== undefined, 'no such step', { n: step.n });
    return state;
  }

  get reachedBytes(): number {
    return this.units.reduce((n, u) => n + (u.finished?.reachedBytes ?? 0), 0);
  }

  /** @returns false when it speaks of a step or a unit that the plan does not have, or of an action that is not the step's */
  take(entry: JournalEntry): boolean {
    const state = 'step' in entry ? this.steps[entry.step - 1] : undefined;
    const unit = 'unit' in entry ? this.units[entry.unit] : undefined;
    if (('step' in entry && state === undefined) || ('unit' in entry && unit === undefined)) return false;
    if (state !== undefined && !speaksOf(state.step.action, entry)) return false;
    if (entry.kind === 'intent' && state !== undefined) {
      state.before = entry.before;
      state.undo = entry.undo;
      state.result = undefined;
    } else if (entry.kind === 'keep' && state !== undefined) {
      state.keep = entry.action;
    } else if (entry.kind === 'outcome' && state !== undefined) {
      const { result, sentence, evidence, errno } = entry;
      Object.assign(state, { result, sentence, evidence, errno });
    } else if (entry.kind === 'unwind' && unit !== undefined) {
      unit.unwinding = { end: entry.end, sentence: entry.sentence };
    } else if (entry.kind === 'unit' && unit !== undefined) {
      const { reached, reachedBytes, whole } = entry;
      unit.finished = { reached, reachedBytes, whole };
      unit.unwinding = undefined;
    } else if (entry.kind === 'end') {
      const { end, sentence, reachedBytes } = entry;
      this.end = { end, sentence, reachedBytes };
    } else if (entry.kind === 'resume') {
      this.end = undefined;
    }
    return true;
  }
}

/** Actions of a line are the step's own, or ways back from it: a journal cannot make dimmer do anything else. */
function speaksOf(action: Action, entry: JournalEntry): boolean {
  switch (entry.kind) {
    case 'intent': {
      const isIts = JSON.stringify(entry.action) === JSON.stringify(action);
      return isIts && (entry.undo ?? []).every((a) => isWayBack(action, a));
    }
    case 'keep':
      return entry.action.do === action.do && isWayBack(action, entry.action);
    case 'undo':
      return isWayBack(action, entry.action);
    default:
      return true;
  }
}

const isCount = (n: unknown): boolean => Number.isSafeInteger(n) && (n as number) >= 0;

function isWayBack(from: Action, back: Action): boolean {
  switch (from.do) {
    case 'offline-block':
      return back.do === 'online-block' && back.block === from.block && ZONE_WORDS.includes(back.zone);
    case 'online-block':
      return back.do === 'offline-block' && back.block === from.block;
    case 'add-dimm':
      if (back.do === 'offline-block') return isCount(back.block);
      return back.do === 'remove-dimm' && back.id === from.id && back.memdev === from.memdev;
    case 'remove-dimm':
      return back.do === 'add-dimm' && back.id === from.id && back.memdev === from.memdev && isCount(back.bytes);
    case 'resize-virtio-mem':
      return back.do === 'resize-virtio-mem' && back.id === from.id && isCount(back.bytes);
    case 'balloon':
      return back.do === 'balloon' && isCount(back.bytes);
    case 'set-hugepages':
      return back.do === 'set-hugepages' && back.node === from.node && back.pageBytes === from.pageBytes;
    case 'auto-online':
      return back.do === 'auto-online' && Object.hasOwn(AUTO_ONLINE, back.word);
    default:
      return false;
  }
}

const AUTO_ONLINE: Readonly<Record<AutoOnlineBlocks, true>> = {
  offline: true,
  online: true,
  online_kernel: true,
  online_movable: true,
};
const ZONE_WORDS: readonly OnlineZone[] = ['movable', 'kernel', 'default'];

/** @param lines  decoded, the first is the begin */
export function replay(lines: readonly JournalLine[]): Result<Replay, JournalProblem> {
  const first = lines[0];
  assert(first?.kind === 'begin', 'a decoded journal begins', { kind: first?.kind });
  const state = new Replay(first.plan);
  for (const line of lines) {
    if (!state.take(line)) {
      const sentence = `line ${line.seq + 1} speaks of a step, a unit or an action that its plan does not have`;
      return err({ reason: 'damaged', line: line.seq + 1, sentence });
    }
  }
  return ok(state);
}
