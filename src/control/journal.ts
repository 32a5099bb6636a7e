// Journal: what an execution was about to do and what came of it, line by line, so that a crash loses nothing.
//
//   begin    the plan, whole, and the host       one line, first
//   intent   step n is about to be done          before acting; with the blocks' zones as they are
//   keep     what was reached short of a target is asked for, so that the machine does not go on by itself
//   outcome  what came of it                     after observing
//   unwind   the unit under way is given up      with the end that it leads to
//   undo, undone                                 the same for the way back
//   unit     a unit is finished and stays        the point of no return of its steps
//   end      exit code, what was reached         last; without it the execution was cut off
//
//   begin ( intent [keep] outcome | outcome "already" )* ... unit ... [ unwind ( undo undone )* ] end
//         ( resume ... )*                        a later execution goes on with the same journal
//
//   {"seq":3,"at":"2026-11-21T12:00:00.000Z","kind":"intent","step":1,...,"sum":"5f3a..."}
//
// Every line ends with the hash of itself and of the line before (`sum`), so that a torn last line is told from a damaged
// file: the first is a crash and is dropped, the second is refused. A line counts once append has come back (fsync).
// journal-text.ts writes and reads the lines, journal-replay.ts says what they mean, docs/formats/journal.md is the format.

import type { Result } from '#base/result';
import type { Action, Condition, Plan } from '#plan/plan';
import type { HostFailure } from './host.ts';

/**
 *   done         every unit is finished
 *   refused      the guest or the kernel said no to the first unit; it is undone
 *   deadline     the first unit was not done in time; it is undone
 *   partial      some units are finished, or one reached less than it should; what was under way is undone
 *   interrupted  the caller's signal; the unit under way is undone
 *   stale        the machine is not, or no longer, as the plan assumes; nothing is changed
 *   unsupported  the host cannot do an action of the plan; nothing was begun
 *   failed       something could not be undone, or the journal could not be written, or the host could not be reached
 */
export type ExecutionEnd =
  | 'done'
  | 'refused'
  | 'deadline'
  | 'partial'
  | 'interrupted'
  | 'stale'
  | 'unsupported'
  | 'failed';

/** `short`: less than was asked for was reached, and stays (virtio-mem, balloon). */
export type StepResult =
  | 'done'
  | 'already'
  | 'short'
  | 'refused'
  | 'deadline'
  | 'lost'
  | 'cancelled'
  | 'stale'
  | 'failed';

export type JournalEntry =
  | { readonly kind: 'begin'; readonly plan: Plan; readonly host: { readonly kind: string; readonly name: string } }
  | { readonly kind: 'resume' }
  | {
      readonly kind: 'intent';
      readonly step: number;
      readonly action: Action;
      /** The actions that would put things back, from what was observed just now: zones as they are, not as planned. */
      readonly undo?: readonly Action[];
      /** Holds now; when it holds again the step is undone. */
      readonly before: readonly Condition[];
    }
  | { readonly kind: 'keep'; readonly step: number; readonly action: Action }
  | {
      readonly kind: 'outcome';
      readonly step: number;
      readonly result: StepResult;
      readonly sentence: string;
      readonly errno?: string;
      readonly evidence: readonly string[];
    }
  | { readonly kind: 'unwind'; readonly unit: number; readonly end: ExecutionEnd; readonly sentence: string }
  | { readonly kind: 'undo'; readonly step: number; readonly action: Action }
  | { readonly kind: 'undone'; readonly step: number; readonly ok: boolean; readonly sentence: string }
  | {
      readonly kind: 'unit';
      /** Index into the plan's units. */
      readonly unit: number;
      readonly reached: string;
      readonly reachedBytes: number;
      /** False: it stopped short of its target. */
      readonly whole: boolean;
    }
  | { readonly kind: 'end'; readonly end: ExecutionEnd; readonly sentence: string; readonly reachedBytes: number };

export type JournalLine = { readonly seq: number; readonly at: string } & JournalEntry;

/** Where lines go. Comes back when the line is on the disk. */
export interface JournalSink {
  append(text: string): Promise<Result<undefined, HostFailure>>;
}
