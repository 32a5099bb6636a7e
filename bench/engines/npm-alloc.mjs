// npm `alloc` (a buddy allocator over a Buffer), 16 bytes for a page. Its searches are linear.

import { createRequire } from 'node:module';

const require = createRequire(process.env.DIMMER_PEERS ? `${process.env.DIMMER_PEERS}/` : import.meta.url);
const loaded = require('alloc/lib/buddy.js');
const BuddyAllocator = loaded.BuddyAllocator ?? loaded;

export function create(pages) {
  const buddy = new BuddyAllocator(Buffer.alloc(pages * 16), { minSize: 16 });
  const handles = new Array(pages);
  const base = buddy.buffer.offset;
  return {
    allocPages(order) {
      const handle = buddy.alloc(16 << order);
      if (handle === null) return -1;
      const frame = (handle.offset - base) >> 4;
      handles[frame] = handle;
      return frame;
    },
    freePages(frame) {
      buddy.free(handles[frame]);
    },
  };
}
