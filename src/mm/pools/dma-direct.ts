// DMA as Linux does it: a mask becomes a zone, and the buddy allocator of that zone gives 2^n frames.
//
//   mask           first zone       the frames are above the mask after all ──> freed, and once more from
//   up to 24 bits  DMA              -
//   up to 32 bits  DMA32            DMA, if the mask has fewer than 32 bits
//   more           Normal           DMA32; then DMA as above
//
// A zone is where the search begins: below it the zonelist goes on, held back by lowmem_reserve. A mask of 34 bits may so
// be refused while there is memory that it could use: Normal gave a frame above it, and DMA32 has none left. The
// node is a preference; "so many bits the same", a boundary or segments cannot be said at all: a driver has to check
// what it got. For comparison with dma-pools.ts. CMA and the IOMMU, which Linux may ask instead, are left out.
//
// Follows Linux kernel/dma/direct.c: dma_direct_alloc(), dma_coherent_ok().

import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toOrder } from '#base/units';
import { MAX_ORDER, PAGE_SIZE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, type ZoneIndex } from '../page-class.ts';
import { type Refusal, refusal } from '../refusal.ts';

/**
 * A coherent buffer for a device.
 *
 * @param bytes  rounded up to 2^n pages, 4 MiB at most
 * @param bits   of the device's mask, 24 to 64
 * @param node   where the device is; undefined: anywhere
 * @returns the first frame; no-memory (ENOMEM), and bad-argument (EINVAL) for more than the buddy allocator has in one piece
 */
export function dmaDirectAlloc(
  m: Machine,
  holder: HolderId,
  { bytes, bits, node }: { readonly bytes: number; readonly bits: number; readonly node?: NodeId },
): Result<Pfn, Refusal> {
  const pages = Math.ceil(bytes / PAGE_SIZE);
  let order = 0;
  while (2 ** order < pages) order++;
  if (order > MAX_ORDER) return err(refusal('bad-argument', `${pages} pages are more than one piece can have`));
  let zone: ZoneIndex = bits <= 24 ? ZONE_DMA : bits <= 32 ? ZONE_DMA32 : ZONE_NORMAL;
  for (;;) {
    const pfn = m.alloc(holder, toOrder(order), { topZone: zone, ...(node === undefined ? {} : { node }) });
    if (pfn === -1) return err(m.lastRefusal as Refusal); // a request that fails leaves its refusal
    if ((pfn + pages) * PAGE_SIZE <= 2 ** bits) return ok(pfn);
    m.free(pfn);
    if (zone === ZONE_NORMAL && bits < 64) zone = ZONE_DMA32;
    else if (zone !== ZONE_DMA && bits < 32) zone = ZONE_DMA;
    else return err(refusal('no-memory', `no frames below 2^${bits} came from the zones that a mask can name`));
  }
}
