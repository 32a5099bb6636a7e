// The whole Machine with holders on: zonelist, watermark check, frame columns, holder slots and contents tags, for every
// page. One zone (Normal, from 4 GiB up), so that it does the same work as the single areas beside it.

import { Machine, toPfn } from '../../dist/mm/index.js';

const BASE = 2 ** 20;

export function create(pages) {
  const machine = Machine.boot({
    ram: [{ start: toPfn(BASE), end: toPfn(BASE + pages), node: 0 }],
    watermarks: 'none',
  });
  const holders = [
    machine.addHolder({ class: 'slab', name: 'unmovable' }),
    machine.addHolder({ class: 'anonymous', name: 'movable' }),
    machine.addHolder({ class: 'slab-reclaimable', name: 'reclaimable' }),
  ];
  return {
    allocPages(order, migratetype) {
      const pfn = machine.alloc(holders[migratetype], order);
      return pfn < 0 ? -1 : pfn - BASE;
    },
    freePages: (page) => machine.free(page + BASE),
    metadataBytes: () => machine.bytes(),
  };
}
