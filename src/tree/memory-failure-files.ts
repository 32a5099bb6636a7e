// Memory failure's files: pages of failing hardware are taken out of use, and counted.
//
//   memory/soft_offline_page, memory/hard_offline_page   0200   a physical address (base auto): mm/memory-failure.ts
//   nodeN/memory_failure/   total ignored failed delayed recovered   0444   hard ones only
//
// A tree is root's: it has CAP_SYS_ADMIN. What Linux would print goes to the machine's log. Kernels without
// CONFIG_MEMORY_FAILURE, which a recorded meminfo without HardwareCorrupted shows, have none of them.
// Follows Linux v6.12 drivers/base/memory.c, mm/memory-failure.c (spec 3.5).

import type { NodeId } from '#base/units';
import type { Machine } from '#mm/machine';
import { type FailureOutcome, memoryFailureCounts, type StoreContext } from '#mm/memory-failure';
import type { Counters } from './counters.ts';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, fixedDir, type Stored } from './tree-node.ts';

export const hasMemoryFailure = (c: TreeContext, counters: Counters): boolean =>
  c.base === undefined || counters.names.meminfo.includes('HardwareCorrupted');

export function failPage(
  c: TreeContext,
  text: string,
  store: (m: Machine, text: string, context: StoreContext) => FailureOutcome,
): Stored {
  const m = c.machine;
  const { log, result } = store(m, text, {
    capSysAdmin: true,
    enabled: c.vm.enableSoftOffline,
    ...(c.pageState === undefined ? {} : { pageState: c.pageState }),
  });
  for (const line of log) m.onLog?.({ level: 'info', text: line });
  return result.ok ? 'ok' : result.error.errno;
}

export function memoryFailureDir({ machine: m }: TreeContext, node: NodeId): DirNode {
  const count = (name: keyof ReturnType<typeof memoryFailureCounts>) =>
    attribute(() => `${memoryFailureCounts(m, node)[name]}\n`);
  return fixedDir({
    delayed: count('delayed'),
    failed: count('failed'),
    ignored: count('ignored'),
    recovered: count('recovered'),
    total: count('total'),
  });
}
