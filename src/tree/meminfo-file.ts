// /proc/meminfo and nodeN/meminfo of a Machine: what the lines say is in counters.ts, how they look in kernfs/meminfo.ts.

import type { NodeId } from '#base/units';
import { type MeminfoAmount, printMeminfo } from '#kernfs/meminfo';
import type { Counters } from './counters.ts';

/** Counted in huge pages; everything else in kB. */
const IN_PAGES = /^HugePages_/;

export const meminfoText = (counters: Counters): string =>
  printMeminfo({ amounts: amountsOf(counters, counters.names.meminfo, undefined) });

export const nodeMeminfoText = (counters: Counters, node: NodeId): string =>
  printMeminfo({ node, amounts: amountsOf(counters, counters.names.nodeMeminfo, node) });

function amountsOf(counters: Counters, names: readonly string[], node: NodeId | undefined): Map<string, MeminfoAmount> {
  const census = counters.census();
  const amounts = new Map<string, MeminfoAmount>();
  for (const name of names) {
    const labelWidth = counters.labelWidth(name, node);
    amounts.set(name, {
      value: counters.amount(name, node, census),
      unit: IN_PAGES.test(name) ? 'pages' : 'kB',
      ...(labelWidth === undefined ? {} : { labelWidth }),
    });
  }
  return amounts;
}
