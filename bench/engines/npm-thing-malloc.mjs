// npm `@thi.ng/malloc` (a pool with free lists in the buffer), 64 bytes for a page. Its searches are linear.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(process.env.DIMMER_PEERS ? `${process.env.DIMMER_PEERS}/` : import.meta.url);
const { MemPool } = await import(pathToFileURL(require.resolve('@thi.ng/malloc')).href);

export function create(pages) {
  const pool = new MemPool({ size: pages * 72 + 4096, align: 8 });
  return {
    allocPages(order) {
      const address = pool.malloc(64 << order);
      return address === 0 ? -1 : address >> 3;
    },
    freePages(frame) {
      pool.free(frame << 3);
    },
  };
}
