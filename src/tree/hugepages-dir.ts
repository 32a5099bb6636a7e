// Huge pages' files: the pools of 2 MiB and 1 GiB pages, of the machine and of each node.
//
//   /sys/kernel/mm/hugepages/hugepages-2048kB/    nr_hugepages, nr_overcommit_hugepages 0644;
//                                                 free_hugepages, resv_hugepages, surplus_hugepages 0444
//   nodeN/hugepages/hugepages-2048kB/             nr_hugepages 0644; free_hugepages, surplus_hugepages 0444
//   /proc/sys/vm/nr_hugepages                     the same as the first
//
// A write to nr_hugepages always succeeds, and the pool grows or shrinks as far as it can (mm/hugetlb-resize.ts). A twin's
// recorded pages are no pool: they are counted on top, and a write changes the pool by the rest. 1 GiB pages have no
// overcommit: EINVAL. Follows Linux v6.12 mm/hugetlb.c: nr_hugepages_store_common(), nr_overcommit_hugepages_store().

import type { NodeId } from '#base/units';
import { PAGE_SIZE } from '#mm/geometry';
import { HUGE_1G, HUGE_2M, type HugeOrder, hugetlbCounts } from '#mm/hugetlb';
import { setNrHugepages, setNrOvercommitHugepages } from '#mm/hugetlb-resize';
import type { Counters } from './counters.ts';
import { readUnsigned } from './memhp-params-dir.ts';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, type FileNode, fixedDir } from './tree-node.ts';

/** No pool is larger than 2^40 frames: a larger wish is as far as it goes. */
const MOST = 2 ** 40;
const nameOf = (order: HugeOrder): string => `hugepages-${(2 ** order * PAGE_SIZE) / 1024}kB`;
const bySize = (dir: (order: HugeOrder) => DirNode): DirNode =>
  fixedDir({ [nameOf(HUGE_1G)]: dir(HUGE_1G), [nameOf(HUGE_2M)]: dir(HUGE_2M) });

export const hugepagesDir = (c: TreeContext, counters: Counters): DirNode =>
  bySize((order) => {
    const { machine: m } = c;
    const count = (of: 'free' | 'reserved' | 'surplus') => attribute(() => `${hugetlbCounts(m, order)[of]}\n`);
    return fixedDir({
      free_hugepages: count('free'),
      nr_hugepages: order === HUGE_2M ? nrHugepagesFile(c, counters) : nrOf(c, order, undefined),
      nr_overcommit_hugepages: attribute(
        () => `${hugetlbCounts(m, order).overcommit}\n`,
        (text) => {
          const value = readUnsigned(text, MOST);
          if (value === undefined || order === HUGE_1G) return 'EINVAL';
          setNrOvercommitHugepages(m, value);
          return 'ok';
        },
      ),
      resv_hugepages: count('reserved'),
      surplus_hugepages: count('surplus'),
    });
  });

export const nodeHugepagesDir = (c: TreeContext, node: NodeId): DirNode =>
  bySize((order) =>
    fixedDir({
      free_hugepages: attribute(() => `${hugetlbCounts(c.machine, order, node).free}\n`),
      nr_hugepages: nrOf(c, order, node),
      surplus_hugepages: attribute(() => `${hugetlbCounts(c.machine, order, node).surplus}\n`),
    }),
  );

const nrOf = ({ machine: m }: TreeContext, order: HugeOrder, node: NodeId | undefined): FileNode =>
  attribute(
    () => `${hugetlbCounts(m, order, node).nr}\n`,
    (text) => {
      const value = readUnsigned(text, MOST);
      if (value === undefined) return 'EINVAL';
      setNrHugepages(m, order, value, node);
      return 'ok';
    },
  );

/** nr_hugepages of the whole machine, 2 MiB: what meminfo says. */
export function nrHugepagesFile({ machine: m }: TreeContext, counters: Counters): FileNode {
  const total = (): number => counters.amount('HugePages_Total', undefined, counters.census());
  return attribute(
    () => `${total()}\n`,
    (text) => {
      const value = readUnsigned(text, MOST);
      if (value === undefined) return 'EINVAL';
      const recorded = total() - hugetlbCounts(m, HUGE_2M).nr;
      setNrHugepages(m, HUGE_2M, Math.max(0, value - recorded));
      return 'ok';
    },
  );
}
