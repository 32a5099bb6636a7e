// Faults of a twin host: what may go wrong between an executor and a machine, chosen call by call.
//
//   refuse             the other end says no; nothing happened
//   lose    before     the connection breaks, and nothing was asked
//           midway     the guest has begun, goes on by itself, and nobody hears the end
//           after      it happened, and nobody heard
//   silent  before     no answer until the deadline; nothing was asked
//           after      no answer until the deadline; it happened
//   lie                "done", and nothing happened
//   down               nobody answers for so long
//   die     before, midway, after      the caller is killed while it waits: the call never comes back
//
// A fault of an observation can only be refuse, lose, silent, down or die: it changes nothing anyway.

import type { ErrnoName } from '#base/errno';
import type { Action } from '#plan/plan';

export type When = 'before' | 'midway' | 'after';

export type Fault =
  | { readonly fault: 'refuse'; readonly errno?: ErrnoName; readonly sentence: string }
  | { readonly fault: 'lose'; readonly when: When }
  | { readonly fault: 'silent'; readonly when: 'before' | 'after' }
  | { readonly fault: 'lie' }
  | { readonly fault: 'down'; readonly forMs: number }
  | { readonly fault: 'die'; readonly when: When };

export type Call = {
  /** From 0 on, observations and actions together. */
  readonly n: number;
  readonly verb: 'observe' | 'act';
  /** Of an act: how many acts came before. */
  readonly act: number;
  readonly action: Action | undefined;
};

export type Faults = (call: Call) => Fault | undefined;
