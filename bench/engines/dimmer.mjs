// dimmer's allocator as the bench wants it: one pool, one CPU, the batch and high of the reference engines.

import { createFreeArea } from '../../dist/mm/free-area-create.js';
import { createPageAlloc } from '../../dist/mm/page-alloc.js';

export const createWith =
  (placement, code = 'own') =>
  (pages) => {
    const area = createFreeArea(pages, placement, code);
    const pool = createPageAlloc(area, { cpus: 1, batch: 64, high: 256, capacity: 512, code });
    pool.online(0, pages);
    return { allocPages: pool.alloc, freePages: pool.free, metadataBytes: pool.bytes };
  };
