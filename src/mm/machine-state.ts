// Machine state: what a subsystem remembers about one machine, and how it follows that machine into its copies.
//
//   hugetlb pools, poisoned frames     machine ──of──> state      (made when first asked for)
//                                         │ fork, restore, rollBack
//                                         v
//                                      copy ──of──> state, equal and independent
//
// Frames and holders are the machine's own tables; a subsystem keeps here only what they cannot say: which huge pages
// are free in their pool, how many are reserved, how often memory failed. A state is forgotten with its machine.
//
// Invariant: after copyMachineStates(from, to) each state of `to` equals that of `from`, and one that `from` does not
// have is gone; writing to one changes nothing in the other.

import type { Machine } from './machine.ts';

export interface MachineState<S> {
  /** An equal, independent state. */
  copy(): S;
}

export type MachineStateKind<S extends MachineState<S>> = {
  /** The machine's state; made when it has none. Cost O(1). */
  of(m: Machine): S;
  /** The machine's state if it was ever made. */
  has(m: Machine): S | undefined;
};

const kinds: { copy(from: Machine, to: Machine): void }[] = [];

/** One kind of state, one call in the module that owns it. */
export function machineState<S extends MachineState<S>>(create: () => S): MachineStateKind<S> {
  const states = new WeakMap<Machine, S>();
  kinds.push({
    copy(from, to) {
      const state = states.get(from);
      if (state === undefined) states.delete(to);
      else states.set(to, state.copy());
    },
  });
  return {
    of(m) {
      let state = states.get(m);
      if (state === undefined) {
        state = create();
        states.set(m, state);
      }
      return state;
    },
    has: (m) => states.get(m),
  };
}

/** `to` becomes equal to `from` in every kind of state. Cost O(size of the states). */
export function copyMachineStates(from: Machine, to: Machine): void {
  for (const kind of kinds) kind.copy(from, to);
}
