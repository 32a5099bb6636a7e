// Journal: what an execution was about to do and what came of it, line by line, so that a crash loses nothing.
//
//   begin    the plan, whole, and the host       one line, first
//   intent   step n is about to be done          before acting; with the blocks' zones as they are
//   outcome  what came of it                     after observing
//   undo, undone                                 the same for the way back
//   unit     a unit is finished and stays        the point of no return of its steps
//   end      exit code, what was reached         last; without it the execution was cut off
//
//   {"seq":3,"at":"2026-11-21T12:00:00.000Z","kind":"intent","step":1,...,"sum":"5f3a..."}
//
// Every line ends with the hash of itself and of the line before (`sum`), so that a torn last line is told from a damaged
// file: the first is a crash and is dropped, the second is refused. A line counts once append has come back (fsync).

import type { Result } from '#base/result';
import type { Action, Plan } from '#plan/plan';
import type { HostFailure } from './host.ts';

export type ExecutionEnd = 'done' | 'refused' | 'deadline' | 'partial' | 'interrupted' | 'stale' | 'failed';

export type JournalEntry =
  | { readonly kind: 'begin'; readonly plan: Plan; readonly host: { readonly kind: string; readonly name: string } }
  | { readonly kind: 'resume' }
  | {
      readonly kind: 'intent';
      readonly step: number;
      readonly action: Action;
      /** The actions that would put things back, from what was observed just now: zones as they are, not as planned. */
      readonly undo: readonly Action[] | undefined;
    }
  | {
      readonly kind: 'outcome';
      readonly step: number;
      readonly result: 'done' | 'already' | 'refused' | 'deadline' | 'lost' | 'cancelled' | 'failed';
      readonly sentence: string;
      readonly errno?: string;
      readonly evidence: readonly string[];
    }
  | { readonly kind: 'undo'; readonly step: number; readonly action: Action }
  | { readonly kind: 'undone'; readonly step: number; readonly ok: boolean; readonly sentence: string }
  | { readonly kind: 'unit'; readonly unit: number; readonly reached: string }
  | { readonly kind: 'end'; readonly end: ExecutionEnd; readonly sentence: string; readonly reachedBytes: number };

export type JournalLine = { readonly seq: number; readonly at: string } & JournalEntry;

/** Where lines go. Comes back when the line is on the disk. */
export interface JournalSink {
  append(text: string): Promise<Result<undefined, HostFailure>>;
}
