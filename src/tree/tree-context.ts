// Tree context: what every file of the tree is computed from.
//
//   machine   the truth
//   profile   which Linux prints it: layouts differ between versions
//   base      files that were recorded of the machine, when it is a twin: what the engine does not model (counters of
//             reclaim, CPU numbers, names that its configuration leaves out) is as it was there

import type { KernTree } from '#kernfs/source';
import type { KernelProfile } from '#mm/kernel-profile';
import type { Machine } from '#mm/machine';
import type { PageStateOf } from '#mm/page-state';

export type TreeContext = {
  readonly machine: Machine;
  readonly profile: KernelProfile;
  readonly base: KernTree | undefined;
  /** What users know of their pages; default: page-state.ts by class. */
  readonly pageState: PageStateOf | undefined;
  /** Sysctls that the engine takes as arguments. */
  readonly vm: { enableSoftOffline: boolean };
};
