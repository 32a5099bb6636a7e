// The demonstrations of pools, one for each of the ten problems of Snook 2007, in the mail's order.
//
// A new one: a file NAME.ts that exports a PoolDemo, and its line here. The command line, its help, its completion and
// its tests go through this list.

import { containers } from './containers.ts';
import type { PoolDemo } from './demo.ts';
import { dmaLocality } from './dma-locality.ts';
import { dmaRules } from './dma-rules.ts';
import { embedded } from './embedded.ts';
import { fragmentation } from './fragmentation.ts';
import { numaPolicy } from './numa-policy.ts';
import { paravirt } from './paravirt.ts';
import { preallocation } from './preallocation.ts';
import { realtime } from './realtime.ts';
import { replication } from './replication.ts';

export type { DemoResult, PoolDemo } from './demo.ts';

/** In the mail's order; names are unique (src/demo/pools/index.test.ts). */
export const POOL_DEMOS: readonly PoolDemo[] = Object.freeze([
  dmaRules,
  dmaLocality,
  preallocation,
  containers,
  replication,
  numaPolicy,
  realtime,
  embedded,
  fragmentation,
  paravirt,
]);
