// Online: an offline block comes back, into a zone of its node that the caller names.
//
//   kernel    the first of DMA, DMA32 whose span the block meets now, else Normal      (state <- online_kernel)
//   movable   ZONE_MOVABLE of the node, always                                         (state <- online_movable)
//
// Its frames go behind the free ones that are there already, in chunks of order 10, type Movable; frames that stayed
// when the block went (never plugged by virtio-mem) stay out and are not managed. A poisoned frame refuses the block.
// Invariants: N1 nothing changes on a refusal; N2 managed grows by the frames that became free, present by the block.
//
// Follows Linux v6.12 mm/memory_hotplug.c: online_pages(), zone_for_pfn_range(); drivers/base/memory.c:
// memory_block_online() (spec 1.6, 1.7, 1.10). Left out: listeners of the online side, which have nothing to veto here.

import { err, ok, type Result } from '#base/result';
import { type BlockId, toPfn } from '#base/units';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import type { Machine } from './machine.ts';
import { BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import { ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type Refusal, refusal } from './refusal.ts';
import { growSpan } from './zone-span.ts';

export type OnlineReport = { readonly block: BlockId; readonly pages: number; readonly zone: string };

/** The pool that spec 1.7 names. Every node has a Normal and a Movable pool, if need be an empty one. */
function poolFor(m: Machine, node: number, zone: 'kernel' | 'movable', start: number, end: number): Pool {
  const wanted = zone === 'movable' ? ZONE_MOVABLE : ZONE_NORMAL;
  const low = m.pools.find(
    (p) => p.node === node && p.zone <= ZONE_DMA32 && p.spanned > 0 && p.startPfn < end && start < p.endPfn,
  );
  if (zone === 'kernel' && low !== undefined) return low;
  return m.pools.find((p) => p.node === node && p.zone === wanted) as Pool; // made at boot
}

/** See Machine.online. Cost O(frames of the block), small: it looks for frames that stayed. */
export function onlineBlock(m: Machine, block: BlockId, zone: 'kernel' | 'movable'): Result<OnlineReport, Refusal> {
  const row = m.blocks.rowOf(block);
  if (row < 0) return err(refusal('no-such-block', `there is no memory block ${block}`));
  if (m.blocks.state[row] !== BLOCK_OFFLINE) {
    return err(refusal('not-offline', `block ${block} is ${m.blocks.stateAt(row)}, not offline`));
  }
  const startPfn = block * m.blockPages;
  const endPfn = startPfn + m.blockPages;
  const whole = m.sections.indexOf(toPfn(startPfn));
  const start = whole + m.blocks.vmemmapPages[row];
  const end = whole + m.blockPages;

  const stayed: { head: number; pages: number }[] = [];
  const poisoned = new BlockerList();
  for (const a of allocationsIn(m, start, end)) {
    if (a.cls === 'poisoned') poisoned.add(blockerOf(m, a.head, 1 << a.order, 'poisoned'));
    stayed.push({ head: a.head, pages: 1 << a.order });
  }
  if (poisoned.items.length > 0) {
    const message = `block ${block}: memory page has hardware error: ${poisoned.pages} poisoned frames`;
    return err(refusal('poisoned', message, poisoned.items));
  }

  // ═══ Nothing below can fail. ═══
  const pool = poolFor(m, m.blocks.node[row], zone, startPfn, endPfn);
  pool.widen(whole, end);
  for (let i = whole; i < end; i += PAGEBLOCK_PAGES) m.poolOf[i >>> PAGEBLOCK_ORDER] = pool.id;
  let at = start;
  let pages = 0;
  for (const s of [...stayed, { head: end, pages: 0 }]) {
    if (s.head > at) pool.fill(at, s.head);
    pages += s.head - at;
    at = s.head + s.pages;
  }
  pool.managed += pages;
  pool.present += end - whole;
  growSpan(pool, startPfn, endPfn);
  m.blocks.state[row] = BLOCK_ONLINE;
  m.blocks.pool[row] = pool.id;
  m.updateWatermarks();
  m.emit({ type: 'online', block, zone: pool.name });
  return ok({ block, pages, zone: pool.name });
}
