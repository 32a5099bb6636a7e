// Executor: does a plan to a machine, step by step, and undoes what fails.
//
//   unit ──> step: look, compare ──> journal the intent ──> act and confirm ──> journal the outcome ──> next step
//             │ not as expected                               │ not done              all done: ═══ the unit stays ═══
//             └──────────────> unwind: the unit's steps, last first, each confirmed <──┘
//
//   begin      lock; what the host can do; the whole state against what the plan assumes; begin is journalled
//   step       the effect is there already: nothing is done. `expect` does not hold: stale. Else the intent goes to the disk
//              with the way back, computed from what is there now (undo.ts); then act.ts
//   short      virtio-mem and balloon that stop short of their target keep what they reached: the guest would go on with
//              the request for hours (spec 5.4: 50 s, then 300 s), so that the request is set to what was reached. The
//              unit is finished, short; its later steps are done as far as they can be
//   unwind     only the unit under way; finished ones stay, and no later one is begun after a failure
//   end        last line of the journal. `failed` with something left can be resumed: the way back is tried again
//
// The same loop executes and resumes: a resumed execution is one whose first steps have happened already, in another
// process (journal-replay.ts). Nothing is believed of the journal that an observation can tell (decide.ts).
//
// Invariants: XQ1 no act without its intent on the disk; XQ2 a step is done only when an observation shows it; XQ3 after
// any end but `failed` each unit is finished or as it was, zones included; XQ4 `left` names everything that is neither,
// as observed. XQ1 yields to XQ3: when the journal cannot be written any more, the unit under way is undone without it.
//
// Follows the undo of Linux v6.12 mm/memory_hotplug.c: offline_and_remove_memory(), which remembers each block's online type
// first and puts back exactly those that went.

import { assert } from '#base/assert';
import { formatSize, plural } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { hashLines, type Observation, stateLines } from '#plan/observation';
import {
  type Action,
  type Condition,
  freeChunks,
  holds,
  type Plan,
  type Step,
  sayAction,
  sayCondition,
  type Unit,
} from '#plan/plan';
import { actAndConfirm, type Came, look } from './act.ts';
import { allHold, decide, isUnderWay } from './decide.ts';
import type { Clock, Host, HostFailure, HostInfo } from './host.ts';
import type { ExecutionEnd, JournalEntry, JournalSink, StepResult } from './journal.ts';
import { Replay, replay, type StepState, type UnitState } from './journal-replay.ts';
import { decodeJournal, JournalEncoder, type JournalProblem } from './journal-text.ts';
import type { Lock } from './lock.ts';
import { differences, EXIT_OF, type ExecutionReport, type Left, type StepReport, type UnitReport } from './report.ts';
import { beforeOf, commandFor, isBack, isReached, subjectsOf, undoOf } from './undo.ts';

/** What is going on: every line of the journal, and waiting. */
export type Progress =
  | JournalEntry
  | { readonly kind: 'waiting'; readonly step: number; readonly what: string; readonly waitedMs: number };

export type ExecuteOptions = {
  readonly journal: JournalSink;
  readonly clock: Clock;
  /** One execution per host. */
  readonly lock?: Lock;
  /** Ctrl-C: stops at a safe point, and undoes the unit under way. */
  readonly signal: AbortSignal;
  readonly onProgress?: (p: Progress) => void;
  /** Looks, compares and tells; acts on nothing and writes no journal. Default false. */
  readonly dryRun?: boolean;
};

/** How long a machine that does not answer is asked before anything is begun. Assumed. */
const FIRST_LOOK_MS = 30_000;
/** The way back of one action, at least. Assumed. */
const UNDO_FLOOR_MS = 30_000;

/**
 * Does a plan. Resolves always: whatever happens to the machine is in the report. Cost: per step two looks at the machine
 * and two flushed lines.
 */
export async function execute(plan: Plan, host: Host, options: ExecuteOptions): Promise<ExecutionReport> {
  return locked(options, plan, async () => {
    const run = new Execution(new Replay(plan), host, options, new JournalEncoder());
    const first = await run.firstLook();
    if (!first.ok) return first.error;
    if (options.dryRun === true) return run.wouldDo(first.value.seen);
    const { kind, name } = first.value.info;
    await run.log({ kind: 'begin', plan, host: { kind, name } });
    return run.toTheEnd();
  });
}

/**
 * Goes on with an execution that was cut off. @param journalText  what its sink was given; options.journal goes on with
 * the same journal, a torn last line cut off (DecodedJournal.bytes).
 *
 * @returns a problem when the journal cannot be believed, or is of another machine; nothing was done then
 */
export async function resume(
  journalText: string,
  host: Host,
  options: ExecuteOptions,
): Promise<Result<ExecutionReport, JournalProblem>> {
  const decoded = decodeJournal(journalText);
  if (!decoded.ok) return decoded;
  const state = replay(decoded.value.lines);
  if (!state.ok) return state;
  const { end } = state.value;
  const first = decoded.value.lines[0];
  assert(first?.kind === 'begin', 'a decoded journal begins');
  if (end !== undefined && end.end !== 'failed') {
    const sentence = `this execution has ended (${end.end}): ${end.sentence}`;
    return ok(new Execution(state.value, host, options, new JournalEncoder()).report(end.end, sentence));
  }
  let other: JournalProblem | undefined;
  const report = await locked(options, state.value.plan, async () => {
    const run = new Execution(state.value, host, options, new JournalEncoder(decoded.value.next));
    const info = await run.info();
    if (!info.ok) return run.report('failed', `nothing was done: ${info.error.sentence}`);
    const { kind, name } = info.value;
    if (kind !== first.host.kind || name !== first.host.name) {
      const sentence = `the journal is of ${first.host.kind} "${first.host.name}", this is ${kind} "${name}"`;
      other = { reason: 'other-host', line: 1, sentence };
      return run.report('failed', sentence);
    }
    await run.log({ kind: 'resume' });
    return run.toTheEnd();
  });
  return other === undefined ? ok(report) : err(other);
}

async function locked(
  options: ExecuteOptions,
  plan: Plan,
  work: () => Promise<ExecutionReport>,
): Promise<ExecutionReport> {
  const taken = await options.lock?.acquire();
  if (taken?.ok === false) {
    const sentence = `nothing was done: ${taken.error.sentence}`;
    return reportOf(new Replay(plan), { end: 'failed', sentence });
  }
  try {
    return await work();
  } finally {
    await taken?.value();
  }
}

/** Why a unit is given up. */
type GiveUp = { readonly end: ExecutionEnd; readonly sentence: string };

class Execution {
  readonly #state: Replay;
  readonly #host: Host;
  readonly #options: ExecuteOptions;
  readonly #clock: Clock;
  readonly #encoder: JournalEncoder;
  readonly #left: Left[] = [];
  readonly #undone = new Set<number>();
  #notes: readonly string[] = [];
  /** Why the journal cannot be written any more. */
  #mute: HostFailure | undefined;

  constructor(state: Replay, host: Host, options: ExecuteOptions, encoder: JournalEncoder) {
    this.#state = state;
    this.#host = host;
    this.#options = options;
    this.#clock = options.clock;
    this.#encoder = encoder;
  }

  // ---------------------------------------------------------------------------------------------------- the beginning

  info(): Promise<Result<HostInfo, HostFailure>> {
    return this.#host.info({ deadlineMs: FIRST_LOOK_MS });
  }

  /** What the host can do, and whether the machine is as the plan assumes. An error is the report. */
  async firstLook(): Promise<Result<{ seen: Observation; info: HostInfo }, ExecutionReport>> {
    const { plan } = this.#state;
    const nothing = (end: ExecutionEnd, why: string): Result<never, ExecutionReport> =>
      err(this.report(end, `nothing was done: ${why}`));
    const info = await this.info();
    if (!info.ok) return nothing(info.error.kind === 'unsupported' ? 'unsupported' : 'failed', info.error.sentence);
    const steps = plan.units.flatMap((u) => u.steps);
    const said = (info.value.notes ?? []).filter((n) => steps.some((s) => s.action.do === n.action));
    this.#notes = [...new Set(said.map((n) => n.sentence))];
    const cannot = steps.find((s) => !info.value.can.has(s.action.do));
    if (cannot !== undefined) {
      const why = info.value.cannot.get(cannot.action.do) ?? 'the host has no such thing';
      return nothing('unsupported', `step ${cannot.n}, ${sayAction(cannot.action)}: ${why}`);
    }
    const seen = await this.#look(this.#clock.nowMs() + FIRST_LOOK_MS);
    if (!seen.ok) return nothing('failed', seen.error.sentence);
    const lines = stateLines(seen.value);
    if (hashLines(lines) !== plan.assumes.hash) {
      const differs = differences(plan.assumes.lines, lines);
      const shown = differs.map((d) => `"${d.found ?? 'nothing'}" instead of "${d.assumed ?? 'nothing'}"`);
      const sentence = `nothing was done: the machine is not as the plan assumes: ${shown.join('; ')}; plan again`;
      return err(reportOf(this.#state, { end: 'stale', sentence, differs }));
    }
    return ok({ seen: seen.value, info: info.value });
  }

  wouldDo(o: Observation): ExecutionReport {
    const steps = this.#state.steps.length;
    const sentence = `nothing was done: ${plural(steps, 'step')} in ${plural(this.#state.units.length, 'unit')}`;
    return reportOf(this.#state, { end: 'done', sentence, dryRun: o, notes: this.#notes });
  }

  // --------------------------------------------------------------------------------------------------------- the loop

  async toTheEnd(): Promise<ExecutionReport> {
    for (const [k, unit] of this.#state.plan.units.entries()) {
      if (this.#unit(k).finished !== undefined) continue;
      const why = this.#failedBefore(unit, k) ?? (await this.#forward(unit));
      if (why !== undefined && !this.#isShort(unit)) {
        const finishedAfterAll = await this.#unwind(unit, k, why);
        if (!finishedAfterAll) return this.#end(why);
      }
      await this.#finish(unit, k);
      if (why?.end === 'interrupted') return this.#end(why);
    }
    return this.#end();
  }

  /** What an earlier executor said before it died: that it gives the unit up, or a failure that leads there. */
  #failedBefore(unit: Unit, k: number): GiveUp | undefined {
    const { unwinding } = this.#unit(k);
    if (unwinding !== undefined) return unwinding;
    for (const step of unit.steps) {
      const { result, sentence } = this.#state.stateOf(step);
      if (result !== undefined && !this.#mayGoOn(unit, step, result)) return giveUp(step, result, sentence);
    }
    return undefined;
  }

  /** The unit's steps, one after the other. @returns why it is given up; undefined: all are done */
  async #forward(unit: Unit): Promise<GiveUp | undefined> {
    const { signal } = this.#options;
    for (const step of unit.steps) {
      const state = this.#state.stateOf(step);
      if (state.result !== undefined) continue;
      if (signal.aborted) return INTERRUPTED;
      const result = await this.#step(step, state);
      if (this.#mute !== undefined) return { end: 'failed', sentence: 'nothing more was begun' };
      if (result === 'cancelled' || (result === 'short' && signal.aborted)) return INTERRUPTED;
      if (!this.#mayGoOn(unit, step, result)) return giveUp(step, result, state.sentence);
    }
    return undefined;
  }

  #isShort(unit: Unit): boolean {
    return unit.steps.some((s) => this.#state.stateOf(s).result === 'short');
  }

  /** After a step that stopped short the rest of the unit is done as far as it can be. */
  #mayGoOn(unit: Unit, step: Step, result: StepResult): boolean {
    if (result === 'done' || result === 'already' || result === 'short') return true;
    return result !== 'cancelled' && (step.bestEffort === true || this.#isShort(unit));
  }

  async #step(step: Step, state: StepState): Promise<StepResult> {
    const seen = await this.#look(this.#clock.nowMs() + step.deadlineMs, this.#options.signal);
    if (!seen.ok) return this.#outcome(step, { result: 'lost', sentence: seen.error.sentence, evidence: [] });
    const o = seen.value;
    let asked = false;
    if (state.before === undefined) {
      if (step.effect.length > 0 && allHold(step.effect, o)) {
        return this.#outcome(step, { result: 'already', sentence: 'it is so already', evidence: [] });
      }
      const wrong = step.expect.find((c) => holds(c, o) !== true);
      if (wrong !== undefined) return this.#outcome(step, stale(wrong, o));
      const undo = undoOf(step, o);
      const before = beforeOf(step.action, o);
      const intent = { kind: 'intent', step: step.n, action: step.action, before } as const;
      if (!(await this.log(undo === undefined ? intent : { ...intent, undo }))) return 'failed';
    } else {
      const next = decide(step, o);
      if (next === 'done') return this.#outcome(step, { result: 'done', sentence: 'seen', evidence: [] });
      if (state.keep !== undefined) return this.#keep(step, state, o);
      if (next === 'undo') {
        const wrong = step.expect.find((c) => holds(c, o) !== true) ?? step.effect[0];
        return this.#outcome(
          step,
          wrong === undefined ? { result: 'stale', sentence: '', evidence: [] } : stale(wrong, o),
        );
      }
      asked = next === 'wait';
    }
    const came = await actAndConfirm(this.#host, this.#clock, {
      action: step.action,
      ...(step.effect.length === 0 ? {} : { isDone: (x: Observation) => allHold(step.effect, x) }),
      isBefore: (x) => decide(step, x) === 'redo',
      isUnderWay: (x) => isUnderWay(step.action, x),
      deadlineMs: step.deadlineMs,
      signal: this.#options.signal,
      asked,
      brief: step.bestEffort === true || OVER_AT_ANSWER.has(step.action.do),
      onWait: (waitedMs) => this.#waiting(step, step.title, waitedMs),
    });
    const kept = came.result === 'deadline' || came.result === 'cancelled' || came.result === 'lost';
    if (kept && came.seen !== undefined && reachedOf(step.action, state.before ?? [], came.seen) !== undefined) {
      return this.#keep(step, state, came.seen);
    }
    return this.#outcome(step, came.result === 'fell-short' ? fellShort(step, came) : { ...came, result: came.result });
  }

  /** Asks for what was reached, so that the machine stops there. */
  async #keep(step: Step, state: StepState, o: Observation): Promise<StepResult> {
    const reached = reachedOf(step.action, state.before ?? [], o);
    const { action } = step;
    if (reached === undefined || (action.do !== 'resize-virtio-mem' && action.do !== 'balloon')) {
      return this.#outcome(step, { result: 'deadline', sentence: 'nothing of it was reached', evidence: [] });
    }
    const keep: Action = { ...action, bytes: reached };
    if (!(await this.log({ kind: 'keep', step: step.n, action: keep }))) return 'failed';
    const came = await this.#back(step, keep, { before: beforeOf(keep, o).map((c) => asKept(c, reached)) });
    const sentence = `${formatSize(reached)} of ${formatSize(action.bytes)} was reached in ${step.deadlineMs} ms`;
    const told = came.result === 'done' ? '' : `, and the request could not be taken back: ${came.sentence}`;
    return this.#outcome(step, { result: 'short', sentence: `${sentence}${told}`, evidence: came.evidence });
  }

  // ------------------------------------------------------------------------------------------------------ the way back

  /** Puts back what the unit did. @returns true when its last step, which nothing undoes, has happened after all */
  async #unwind(unit: Unit, k: number, why: GiveUp): Promise<boolean> {
    const touched = unit.steps.filter((s) => this.#state.stateOf(s).before !== undefined);
    if (touched.length === 0) return false;
    if (this.#unit(k).unwinding === undefined) await this.log({ kind: 'unwind', unit: k, ...why });
    for (const step of touched.toReversed()) {
      if (await this.#stepBack(step)) return true;
    }
    // The last word is one observation of all steps together: one way back may have changed what another had put right.
    const seen = await this.#look(this.#clock.nowMs() + UNDO_FLOOR_MS);
    // Of what several steps changed the first one knows how it was: a block that was offline before its step may not be there
    // at all after the step that added it is undone.
    const told = new Set<string>();
    for (const step of touched) {
      const before = (this.#state.stateOf(step).before ?? []).filter((c) => subjectsOf(c).some((s) => !told.has(s)));
      for (const subject of before.flatMap(subjectsOf)) told.add(subject);
      const left = this.#leftOf(step, before, seen);
      if (left === undefined) this.#undone.add(step.n);
      else this.#left.push(left);
    }
    return false;
  }

  #leftOf(step: Step, before: readonly Condition[], seen: Result<Observation, HostFailure>): Left | undefined {
    const { undo = [] } = this.#state.stateOf(step);
    if (!seen.ok) {
      const sentence = `nobody knows whether ${before.map(sayCondition).join(' and ')}: ${seen.error.sentence}`;
      return { step: step.n, sentence, commands: undo.map(commandFor) };
    }
    const o = seen.value;
    const wrong = before.filter((c) => holds(c, o) !== true);
    if (wrong.length === 0) return undefined;
    const open = undo.filter((a) => isReached(a, o) !== true);
    return {
      step: step.n,
      sentence: wrong.map((c) => sayWrong(c, o)).join('; '),
      commands: [...stuckIn(open, o), ...(open.length > 0 ? open : undo).map(commandFor)],
    };
  }

  /** One step is put back. @returns true when it turns out to have happened, and to be the end of its unit */
  async #stepBack(step: Step): Promise<boolean> {
    const { before = [], undo } = this.#state.stateOf(step);
    if (undo === undefined) return this.#wasItDone(step, before);
    for (const [k, action] of undo.entries()) {
      const isLast = k === undo.length - 1;
      const now = await this.#look(this.#clock.nowMs() + UNDO_FLOOR_MS);
      const isSo = now.ok && isReached(action, now.value) === true;
      if (isSo && (!isLast || before.every((c) => isBack(c, now.value)))) continue;
      await this.log({ kind: 'undo', step: step.n, action });
      const came = await this.#back(step, action, { asked: isSo, ...(isLast ? { before } : {}) });
      await this.log({ kind: 'undone', step: step.n, ok: came.result === 'done', sentence: came.sentence });
    }
    return false;
  }

  /**
   * Of a step that nothing undoes, and that is the last of its unit: it has not happened, or the unit is done. An eject that
   * was asked for and not refused may still be in front of the guest, and would take the blocks away from under the way
   * back: it is given time while all of them are offline.
   */
  async #wasItDone(step: Step, before: readonly Condition[]): Promise<boolean> {
    if (this.#state.stateOf(step).result === 'refused') return false;
    const came = await actAndConfirm(this.#host, this.#clock, {
      action: step.action,
      isDone: (x) => allHold(step.effect, x),
      isBefore: (x) => !allHold(before, x), // never a second time: it is on its way, or forgotten
      isUnderWay: () => true,
      deadlineMs: UNDO_FLOOR_MS,
      asked: true,
      onWait: (waitedMs) => this.#waiting(step, step.title, waitedMs),
    });
    if (came.result !== 'done') return false;
    await this.#outcome(step, { result: 'done', sentence: 'seen, late', evidence: came.evidence });
    return true;
  }

  /** An action of the way back: cannot be interrupted, and does not take the first no. */
  #back(
    step: Step,
    action: Action,
    how: { readonly before?: readonly Condition[]; readonly asked?: boolean } = {},
  ): Promise<Came> {
    const { before = [], asked = false } = how;
    return actAndConfirm(this.#host, this.#clock, {
      action,
      isDone: (x) => isReached(action, x) === true && before.every((c) => isBack(c, x)),
      isBefore: () => true,
      isUnderWay: (x) => isUnderWay(action, x),
      deadlineMs: Math.max(UNDO_FLOOR_MS, step.deadlineMs),
      asked,
      stubborn: true,
      onWait: (waitedMs) => this.#waiting(step, sayAction(action), waitedMs),
    });
  }

  // ------------------------------------------------------------------------------------------------------- bookkeeping

  /** A unit is whole, or as whole as it gets. */
  async #finish(unit: Unit, k: number): Promise<void> {
    const shorts = unit.steps.map((s) => this.#state.stateOf(s)).filter((s) => s.result === 'short');
    const shortBy = shorts.reduce((n, s) => n + missingOf(s), 0);
    const reachedBytes = Math.max(0, unit.bytes - shortBy);
    const reached = shorts.length === 0 ? unit.reaches : shorts.map((s) => s.sentence).join('; ');
    // ═══ Point of no return of the unit: its last effect was seen; from this line on it stays, whatever becomes of others.
    await this.log({ kind: 'unit', unit: k, reached, reachedBytes, whole: shorts.length === 0 });
  }

  /** The last line. @param why  of a unit that was given up; undefined: all are finished */
  async #end(why?: GiveUp): Promise<ExecutionReport> {
    const { end, sentence } = this.#verdict(why);
    await this.log({ kind: 'end', end, sentence, reachedBytes: this.#state.reachedBytes });
    const mute = this.#mute === undefined ? '' : `; the journal could not be written: ${this.#mute.sentence}`;
    return this.report(end, `${sentence}${mute}`);
  }

  #verdict(why: GiveUp | undefined): GiveUp {
    const reached = this.#state.units.flatMap((u) => (u.finished === undefined ? [] : [u.finished.reached]));
    if (why === undefined) {
      const isWhole = this.#state.units.every((u) => u.finished?.whole === true);
      const sentence = reached.length === 0 ? 'there was nothing to do' : reached.join('; ');
      return { end: isWhole ? 'done' : 'partial', sentence };
    }
    const stays = reached.length === 0 ? '' : `${reached.join('; ')}; then `;
    if (this.#left.length > 0) {
      const left = this.#left.map((l) => l.sentence).join('; ');
      return { end: 'failed', sentence: `${stays}${why.sentence}; not everything could be put back: ${left}` };
    }
    const undone = `${stays}${why.sentence}; what was under way is undone`;
    if (this.#mute !== undefined) return { end: 'failed', sentence: undone };
    return { end: reached.length > 0 && why.end !== 'interrupted' ? 'partial' : why.end, sentence: undone };
  }

  report(end: ExecutionEnd, sentence: string): ExecutionReport {
    return reportOf(this.#state, { end, sentence, left: this.#left, undone: this.#undone, notes: this.#notes });
  }

  async #outcome(
    step: Step,
    came: Pick<Came, 'sentence' | 'evidence' | 'errno'> & { readonly result: StepResult },
  ): Promise<StepResult> {
    const { result, sentence, evidence, errno } = came;
    const line = { kind: 'outcome', step: step.n, result, sentence, evidence } as const;
    await this.log(errno === undefined ? line : { ...line, errno });
    return result;
  }

  /** One line to the disk. @returns false when it is not there: then nothing may be acted on. */
  async log(entry: JournalEntry): Promise<boolean> {
    assert(this.#state.take(entry), 'a line about nothing', { kind: entry.kind });
    if (this.#mute === undefined) {
      // After a failed append the file may end in a torn line: nothing can follow it.
      const done = await this.#options.journal.append(this.#encoder.line(this.#clock.stamp(), entry));
      if (!done.ok) this.#mute = done.error;
    }
    this.#options.onProgress?.(entry);
    return this.#mute === undefined;
  }

  #unit(k: number): UnitState {
    const state = this.#state.units[k];
    assert(state !== undefined, 'a unit without a state', { unit: k });
    return state;
  }

  #look(untilMs: number, signal?: AbortSignal): Promise<Result<Observation, HostFailure>> {
    return look(this.#host, this.#clock, untilMs, signal);
  }

  #waiting(step: Step, what: string, waitedMs: number): void {
    this.#options.onProgress?.({ kind: 'waiting', step: step.n, what, waitedMs });
  }
}

const ENDS: Readonly<Partial<Record<StepResult, ExecutionEnd>>> = {
  refused: 'refused',
  deadline: 'deadline',
  cancelled: 'interrupted',
  stale: 'stale',
};

const INTERRUPTED: GiveUp = { end: 'interrupted', sentence: 'interrupted' };

/** A block that is going-offline has a writer: a signal to it is what ends the offline (lab fact 5). */
const stuckIn = (undo: readonly Action[], o: Observation): string[] =>
  undo.flatMap((a) =>
    a.do === 'online-block' && o.blocks.some((b) => b.id === a.block && b.state === 'going-offline')
      ? [`fuser -k -INT /sys/devices/system/memory/memory${a.block}/state`]
      : [],
  );

/** What the kernel has done when it answers: nothing more comes of waiting. */
const OVER_AT_ANSWER: ReadonlySet<Action['do']> = new Set(['drop-caches', 'compact', 'set-hugepages', 'auto-online']);

/** The kernel did what it was asked for, and that was not enough: as good as a refusal, with what is missing. */
function fellShort(step: Step, came: Came): Came & { readonly result: 'refused' } {
  const { seen } = came;
  const missing = seen === undefined ? undefined : step.effect.find((c) => holds(c, seen) !== true);
  const found = missing === undefined || seen === undefined ? '' : `: ${sayWrong(missing, seen)}`;
  return { ...came, result: 'refused', sentence: `${came.sentence}${found}` };
}

const giveUp = (step: Step, result: StepResult, sentence: string): GiveUp => ({
  end: ENDS[result] ?? 'failed',
  sentence: `step ${step.n}, ${step.title}: ${sentence}`,
});

/** What an observation shows instead of a condition. */
function sayWrong(c: Condition, o: Observation): string {
  const found = ((): string => {
    switch (c.is) {
      case 'block': {
        const b = o.blocks.find((x) => x.id === c.block);
        return b === undefined ? 'it is not there' : `it is ${b.state}${b.zone === undefined ? '' : ` in ${b.zone}`}`;
      }
      case 'blocks':
        return `${o.blocks.filter((b) => c.first <= b.id && b.id <= c.last).length} of them are there`;
      case 'virtio-mem': {
        const v = o.hypervisor?.virtioMem.find((x) => x.id === c.id);
        return v === undefined ? 'there is none' : `it is asked for ${v.requested} and has ${v.size}`;
      }
      case 'balloon':
        return `it leaves ${o.hypervisor?.balloonBytes ?? 'nobody knows how many'}`;
      case 'free-chunks':
        return `${Math.floor(freeChunks(o, c.order))} are`;
      default:
        return holds(c, o) === undefined ? 'it cannot be observed' : 'it is not so';
    }
  })();
  return `not so: ${sayCondition(c)} (${found})`;
}

const stale = (c: Condition, o: Observation): { result: 'stale'; sentence: string; evidence: string[] } => ({
  result: 'stale',
  sentence: `the machine is not as the plan expects: ${sayWrong(c, o)}`,
  evidence: [],
});

/** Where a virtio-mem device or a balloon stands, if that is on its way from where it began to where it should be. */
function reachedOf(a: Action, before: readonly Condition[], o: Observation): number | undefined {
  const from = sizeIn(before);
  if (from === undefined) return undefined;
  const now =
    a.do === 'resize-virtio-mem'
      ? o.hypervisor?.virtioMem.find((v) => v.id === a.id)?.size
      : a.do === 'balloon'
        ? o.hypervisor?.balloonBytes
        : undefined;
  if (now === undefined || !('bytes' in a)) return undefined;
  const moved = a.bytes > from ? now > from && now < a.bytes : now < from && now > a.bytes;
  return moved ? now : undefined;
}

/** The condition that a device stands where it was told to stay. */
const asKept = (c: Condition, bytes: number): Condition =>
  c.is === 'virtio-mem' ? { ...c, requested: bytes, size: bytes } : c.is === 'balloon' ? { ...c, bytes } : c;

const sizeIn = (before: readonly Condition[]): number | undefined => {
  for (const c of before) {
    if (c.is === 'virtio-mem') return c.size;
    if (c.is === 'balloon') return c.bytes;
  }
  return undefined;
};

/** Bytes between what was asked for and what was kept. */
function missingOf(s: StepState): number {
  const { action } = s.step;
  if (s.keep === undefined || !('bytes' in s.keep) || !('bytes' in action)) return 0;
  return Math.abs(action.bytes - s.keep.bytes);
}

function reportOf(
  state: Replay,
  said: {
    readonly end: ExecutionEnd;
    readonly sentence: string;
    readonly differs?: ExecutionReport['differs'];
    readonly left?: readonly Left[];
    readonly undone?: ReadonlySet<number>;
    readonly dryRun?: Observation;
    readonly notes?: readonly string[];
  },
): ExecutionReport {
  const { end, sentence, left = [], undone = new Set(), dryRun } = said;
  const isLeft = (n: number): boolean => left.some((l) => l.step === n);
  const units = state.plan.units.map((unit, k): UnitReport => {
    const { finished } = state.units[k] ?? {};
    const steps = unit.steps.map((step): StepReport => {
      const s = state.stateOf(step);
      const would =
        dryRun !== undefined
          ? allHold(step.effect, dryRun) && step.effect.length > 0
            ? 'already'
            : 'would'
          : undefined;
      const back = isLeft(step.n) ? 'left' : undone.has(step.n) && s.result === 'done' ? 'undone' : undefined;
      return {
        n: step.n,
        title: step.title,
        result: would ?? back ?? s.result,
        sentence: s.sentence,
        ...(s.errno === undefined ? {} : { errno: s.errno }),
        evidence: s.evidence,
      };
    });
    const begun = unit.steps.some((s) => state.stateOf(s).before !== undefined);
    const outcome =
      finished !== undefined
        ? finished.whole
          ? 'done'
          : 'short'
        : unit.steps.some((s) => isLeft(s.n))
          ? 'left'
          : begun
            ? 'undone'
            : 'not-begun';
    return {
      name: unit.name,
      outcome,
      reached: finished?.reached ?? '',
      reachedBytes: finished?.reachedBytes ?? 0,
      steps,
    };
  });
  return {
    end,
    exitCode: EXIT_OF[end],
    sentence,
    reachedBytes: state.reachedBytes,
    dryRun: dryRun !== undefined,
    units,
    differs: said.differs ?? [],
    left,
    notes: said.notes ?? [],
  };
}
