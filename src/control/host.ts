// Host: the port through which a plan acts on a machine: a Linux host, a QEMU guest, a twin, a recording.
//
//   executor ──observe──> Observation          what is, read anew each time, inside the guest and from the hypervisor
//            ──act──────> ActReply             what was said; whether it is so, the next observation tells
//            ──watch────> lines                events as they come, for people and for `top`
//            ──capture──> Capture              the whole picture, for a twin
//
// The world's failures are translated here and nowhere else: an adapter never throws for weather and never lets a request
// wait for ever. Connecting again after a cut is the adapter's business, within the deadline it was given; whether something
// that was under way has happened is the executor's, by observing.
//
// Invariants for adapters (the conformance suite proves them on each): observe changes nothing; act does one action or
// nothing; an action that is not among `can` is refused as unsupported without touching the machine; after close every
// request fails as `closed`.

import type { ErrnoName } from '#base/errno';
import type { Result } from '#base/result';
import type { Capture } from '#capture/capture';
import type { Observation } from '#plan/observation';
import type { Action } from '#plan/plan';

export type HostFailure = {
  /**
   *   denied        not allowed: privileges, a read-only tree, a container, an agent whose verbs are switched off
   *   unsupported   this machine has no such thing
   *   unreachable   nobody answers at the other end
   *   disconnected  the connection broke while a request was under way: it may or may not have been done
   *   timeout       no answer within the deadline: it may still be done
   *   refused       the other end said no
   *   protocol      an answer that makes no sense
   *   cancelled     the caller's signal
   *   closed        the host was closed before
   */
  readonly kind:
    | 'denied'
    | 'unsupported'
    | 'unreachable'
    | 'disconnected'
    | 'timeout'
    | 'refused'
    | 'protocol'
    | 'cancelled'
    | 'closed';
  /** One sentence for people. */
  readonly sentence: string;
  /** Of a refusal by the kernel. */
  readonly errno?: ErrnoName;
  /** What was seen: replies, events, kernel lines, oldest first. */
  readonly evidence?: readonly string[];
};

/** What was said to an action. `evidence` as above: for the journal. */
export type ActDone = { readonly evidence: readonly string[] };

export type Limits = {
  readonly deadlineMs: number;
  /** Ends the request early, at a point where nothing is half done: the action is cancelled in the guest, too. */
  readonly signal?: AbortSignal;
};

export type HostInfo = {
  readonly kind: 'linux' | 'qemu' | 'twin' | 'recording';
  /** As the user named it: "qemu:/run/vm.qmp", "this machine". */
  readonly name: string;
  readonly kernel: string;
  /** Actions that it can do; the reason for each one it cannot. */
  readonly can: ReadonlySet<Action['do']>;
  readonly cannot: ReadonlyMap<Action['do'], string>;
  /** Of what it can do: what a person should know before. One sentence each. */
  readonly notes?: readonly { readonly action: Action['do']; readonly sentence: string }[];
};

export interface Host {
  info(limits: Limits): Promise<Result<HostInfo, HostFailure>>;
  observe(limits: Limits): Promise<Result<Observation, HostFailure>>;
  /** Listens before it acts. Returns when the other end has answered; for what takes longer (device_del), when its event came. */
  act(action: Action, limits: Limits): Promise<Result<ActDone, HostFailure>>;
  capture(limits: Limits): Promise<Result<Capture, HostFailure>>;
  /** Events of the hypervisor and the kernel as lines, until the signal; a cut connection is itself a line. */
  watch(onLine: (line: string) => void, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** Time, as an argument. */
export interface Clock {
  nowMs(): number;
  /** Wall time, ISO 8601. */
  stamp(): string;
  /** Resolves after that long, or at once when the signal comes; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}
