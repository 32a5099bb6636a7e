// /proc/iomem of a Machine: who has which addresses (mm/resource.ts), printed by kernfs/iomem.ts as root sees it.

import { type IomemEntry, printIomem } from '#kernfs/iomem';
import type { TreeContext } from './tree-context.ts';

/** r_show() indents no further. */
const MAX_DEPTH = 5;

export function iomemText({ machine }: TreeContext): string {
  const entries: IomemEntry[] = [];
  machine.hotplug.resources.forEach((r, depth) => {
    entries.push({ depth: Math.min(depth, MAX_DEPTH), startPhys: r.start, endPhys: r.end + 1, name: r.name });
  });
  return printIomem(entries);
}
