// Act and confirm: one action, tried until an observation shows it, or a bound is reached.
//
//   act ──> done           watch until the effect is seen                                    deadline: not seen
//                          over with its answer (compaction): watch SETTLE_MS               fell short: not seen
//       ──> refused        look once: it may be so all the same; under way: watch            refused
//       ──> no answer      watch SETTLE_MS, longer while it is under way; as it was: again   lost, after ACT_TRIES
//       ──> cancelled      look: it may have been too late to cancel                         cancelled
//
// The reply decides only what is looked for and for how long. "Done" is always an observation: QEMU takes a DIMM that the
// guest rejects (lab fact 3), an agent dies after the write, a kernel says EINVAL of a block that is as it should be.
//
// While the guest is still at it when the deadline is over, GRACE_MS more are watched: the deadline of a write lies in the
// guest, and its end has to be seen before anything is put back. Every wait is bounded by the deadline, every repetition
// by ACT_TRIES.

import type { ErrnoName } from '#base/errno';
import type { Result } from '#base/result';
import type { Observation } from '#plan/observation';
import type { Action } from '#plan/plan';
import type { Clock, Host, HostFailure } from './host.ts';

/** An action is asked for once, and at most twice more. */
export const ACT_TRIES = 3;
/** How long an answer that got lost may still come true before it is asked for again. Assumed. */
const SETTLE_MS = 2_000;
/** How long the guest may take to end what its deadline has ended. Assumed. */
const GRACE_MS = 5_000;
/** One look at the machine: five small files a block, over a guest agent. Assumed. */
const LOOK_MS = 30_000;
/** A look that has begun is given so long, also when the deadline is nearer. Assumed. */
const LOOK_FLOOR_MS = 5_000;
const POLL_MIN_MS = 20;
const POLL_MAX_MS = 1_000;
/** Pieces of evidence that are kept of one action. */
const EVIDENCE_MAX = 20;

export type Wish = {
  readonly action: Action;
  /** Has it happened? Absent: nothing shows it, and the answer has to do. */
  readonly isDone?: (o: Observation) => boolean;
  /** Is all as it was before? */
  readonly isBefore: (o: Observation) => boolean;
  /** Is the guest at it? */
  readonly isUnderWay: (o: Observation) => boolean;
  /** For all tries and for watching together. */
  readonly deadlineMs: number;
  /** Absent: it cannot be interrupted (the way back). */
  readonly signal?: AbortSignal;
  /** It has been asked for already: watch first. */
  readonly asked?: boolean;
  /** It is over when it is answered, or need not come about: an answer without an error is not waited upon for long. */
  readonly brief?: boolean;
  /** Refusals are asked again, too: the way back does not take the first no. */
  readonly stubborn?: boolean;
  readonly onWait?: (waitedMs: number) => void;
};

export type Came = {
  /** `fell-short`: over, and its effect is not there. */
  readonly result: 'done' | 'fell-short' | 'refused' | 'deadline' | 'lost' | 'cancelled';
  readonly sentence: string;
  readonly errno?: ErrnoName;
  readonly evidence: readonly string[];
  /** The last one; undefined: the machine could not be looked at. */
  readonly seen: Observation | undefined;
};

/** What cannot get better by waiting. */
const isFinal = (f: HostFailure): boolean =>
  f.kind === 'closed' || f.kind === 'denied' || f.kind === 'unsupported' || f.kind === 'cancelled';

/** One observation; a machine that does not answer is asked again until `untilMs`. At least one request is made. */
export async function look(
  host: Host,
  clock: Clock,
  untilMs: number,
  signal?: AbortSignal,
): Promise<Result<Observation, HostFailure>> {
  for (let wait = POLL_MIN_MS; ; wait = Math.min(2 * wait, POLL_MAX_MS)) {
    const leftMs = Math.max(LOOK_FLOOR_MS, untilMs - clock.nowMs());
    const seen = await host.observe({ deadlineMs: Math.min(LOOK_MS, leftMs) });
    if (seen.ok || isFinal(seen.error) || clock.nowMs() >= untilMs || signal?.aborted === true) return seen;
    await clock.sleep(Math.min(wait, Math.max(1, untilMs - clock.nowMs())), signal);
  }
}

type Watched = { readonly saw: 'done' | 'end' | 'cancelled' | 'before'; readonly seen: Observation | undefined };

/** Looks again and again. `while` says whether it is worth while; always ends at `untilMs`. */
async function watch(
  host: Host,
  clock: Clock,
  wish: Wish,
  limits: { readonly untilMs: number; readonly while?: (o: Observation) => boolean },
): Promise<Watched> {
  const startMs = clock.nowMs();
  let seen: Observation | undefined;
  for (let wait = POLL_MIN_MS; ; wait = Math.min(2 * wait, POLL_MAX_MS)) {
    const now = await look(host, clock, limits.untilMs, wish.signal);
    seen = now.ok ? now.value : seen;
    if (now.ok && wish.isDone?.(now.value) === true) return { saw: 'done', seen };
    if (now.ok && limits.while !== undefined && !limits.while(now.value)) return { saw: 'before', seen };
    if (!now.ok && isFinal(now.error)) return { saw: 'end', seen };
    const leftMs = limits.untilMs - clock.nowMs();
    if (leftMs <= 0) return { saw: 'end', seen };
    if (wish.signal?.aborted === true) return { saw: 'cancelled', seen };
    wish.onWait?.(clock.nowMs() - startMs);
    await clock.sleep(Math.min(wait, leftMs), wish.signal);
  }
}

/** Cost: one act a try, and about a look a second. */
export async function actAndConfirm(host: Host, clock: Clock, wish: Wish): Promise<Came> {
  const { action, signal } = wish;
  const endMs = clock.nowMs() + wish.deadlineMs;
  const evidence: string[] = [];
  let said: HostFailure | undefined;
  let seen: Observation | undefined;
  let unanswered = false;
  const came = (result: Came['result'], sentence: string): Came => ({
    result,
    sentence,
    ...(said?.errno === undefined || result === 'done' ? {} : { errno: said.errno }),
    evidence,
    seen,
  });
  const tries = wish.asked === true ? ACT_TRIES + 1 : ACT_TRIES;
  for (let n = 0; n < tries; n++) {
    let kind: HostFailure['kind'] | undefined = 'disconnected';
    if (n > 0 || wish.asked !== true) {
      const limits = { deadlineMs: Math.max(1, endMs - clock.nowMs()), ...(signal === undefined ? {} : { signal }) };
      const reply = await host.act(action, limits);
      const saw = reply.ok ? reply.value.evidence : [reply.error.sentence, ...(reply.error.evidence ?? [])];
      evidence.push(...saw.slice(0, EVIDENCE_MAX - evidence.length));
      said = reply.ok ? undefined : reply.error;
      kind = said?.kind;
    }
    if (kind === undefined) {
      if (wish.isDone === undefined) return came('done', 'it was taken without an error');
      const untilMs = wish.brief === true ? Math.min(endMs, clock.nowMs() + SETTLE_MS) : endMs;
      const w = await watch(host, clock, wish, { untilMs });
      seen = w.seen ?? seen;
      if (w.saw === 'done') return came('done', 'seen');
      if (w.saw === 'cancelled') return came('cancelled', 'interrupted');
      if (wish.brief === true && w.seen !== undefined)
        return came('fell-short', 'it was done, and came short of what is needed');
      return came('deadline', 'it was taken without an error, and did not come about in time');
    }
    const lost = kind === 'disconnected' || kind === 'timeout' || kind === 'protocol' || kind === 'unreachable';
    unanswered ||= lost;
    // A refusal after a lost answer may be one of the repetition only: a DIMM that is "already in the process of unplug".
    const isPatient = lost || (unanswered && kind === 'refused' && isDevice(action));
    const nowMs = clock.nowMs();
    const stillMs = Math.max(endMs, nowMs);
    let w = await watch(host, clock, wish, { untilMs: Math.min(stillMs, nowMs + (isPatient ? SETTLE_MS : 0)) });
    seen = w.seen ?? seen;
    const isAtIt = (): boolean => w.saw !== 'done' && seen !== undefined && wish.isUnderWay(seen);
    if (isAtIt() && kind !== 'cancelled') {
      w = await watch(host, clock, wish, { untilMs: stillMs, while: wish.isUnderWay });
      seen = w.seen ?? seen;
    }
    if (isAtIt()) {
      // The deadline is over or the caller gave up, and the guest is about to notice.
      const { signal: _given, ...deaf } = wish;
      w = await watch(host, clock, deaf, { untilMs: clock.nowMs() + GRACE_MS, while: wish.isUnderWay });
      seen = w.seen ?? seen;
    }
    if (w.saw === 'done') return came('done', said === undefined ? 'seen' : `seen, though: ${said.sentence}`);
    if (kind === 'cancelled' || signal?.aborted === true) return came('cancelled', 'interrupted');
    // Only a signal ends a write with EINTR, and the only one who sends it is the deadline, a moment early maybe.
    if (clock.nowMs() >= endMs || said?.errno === 'EINTR') {
      return came('deadline', said?.sentence ?? 'it did not come about in time');
    }
    if ((!isPatient && wish.stubborn !== true) || (said !== undefined && isFinal(said))) {
      return came('refused', said?.sentence ?? 'refused');
    }
    if (seen !== undefined && !wish.isBefore(seen)) {
      return came('lost', `${said?.sentence ?? 'nobody answered'}, and it is neither as before nor as it should be`);
    }
    await clock.sleep(Math.min(POLL_MAX_MS, Math.max(1, endMs - clock.nowMs())), signal);
  }
  const result = said?.kind === 'refused' ? 'refused' : 'lost';
  return came(result, `${said?.sentence ?? 'nobody answered'}, asked ${ACT_TRIES} times`);
}

const isDevice = (a: Action): boolean => a.do === 'add-dimm' || a.do === 'remove-dimm';
