// Online: an offline block comes to a zone of its node.
//
//   step      what                                                                       refusal
//   check     offline now? no poisoned frame (where the kernel minds)?                   EINVAL, EHWPOISON
//   choose    the zone, by request and policy                            zone-choice.ts
//   notify    PREPARE_ONLINE, GOING_ONLINE: listeners in order                           their errno; CANCEL to all
//   ═══ point of no return ═══
//   hand over frames go behind the free ones that are there, in chunks of order 10, type Movable, as far as the driver
//             with the callback wants (online-callback.ts); those that stay out (never plugged by virtio-mem, not
//             backed) are present and not managed; the block's own memmap is present, not managed, its pageblocks Unmovable
//   count     present, managed, span, group, watermarks; ONLINE
//
// Invariants: N1 nothing changes on a refusal (in `linux` a span may: spanAfterVeto); N2 managed grows by the frames that
// became free, present by the block.
//
// Follows Linux v6.12 mm/memory_hotplug.c: online_pages(), mhp_init_memmap_on_memory(); drivers/base/memory.c:
// memory_block_online() (spec 1.6, 1.7, 1.10, 3.3, 4.4).

import { err, ok, type Result } from '#base/result';
import { type BlockId, toPfn } from '#base/units';
import { MIGRATE_UNMOVABLE, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import { comeHome } from './kremap/home.ts';
import type { Machine } from './machine.ts';
import { BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import { poisonRenewed } from './memory-failure.ts';
import type { Notifier } from './memory-hotplug.ts';
import { onlinePagesRange } from './online-callback.ts';
import { CLASS_TRAITS, ZONE_MOVABLE } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type ErrnoName, type Refusal, refusal } from './refusal.ts';
import { type OnlineType, zoneForBlock } from './zone-choice.ts';
import { growSpan, shrinkSpan } from './zone-span.ts';

export type OnlineReport = { readonly block: BlockId; readonly pages: number; readonly zone: string };

/** See Machine.online. Cost O(frames of the block) when some stayed in it, else O(pageblocks). */
export function onlineBlock(m: Machine, block: BlockId, how: OnlineType): Result<OnlineReport, Refusal> {
  const { blocks } = m;
  const row = blocks.rowOf(block);
  if (row < 0) return err(refusal('no-such-block', `there is no memory block ${block}`));
  if (blocks.state[row] !== BLOCK_OFFLINE) {
    return err(refusal('not-offline', `block ${block} is ${blocks.stateAt(row)}, not offline`));
  }
  const startPfn = block * m.blockPages;
  const endPfn = startPfn + m.blockPages;
  const whole = m.sections.indexOf(toPfn(startPfn));
  const vmemmap = blocks.vmemmapPages[row] as number;
  const start = whole + vmemmap;
  const end = whole + m.blockPages;

  const stayed: { head: number; pages: number; managed: boolean }[] = [];
  const poisoned = new BlockerList();
  // Most blocks have nothing but free frames: not even looked at.
  for (const a of blocks.stayed[row] === 1 ? allocationsIn(m, start, end) : []) {
    if (a.cls === 'poisoned') poisoned.add(blockerOf(m, a.head, 1 << a.order, 'poisoned'));
    stayed.push({ head: a.head, pages: 1 << a.order, managed: CLASS_TRAITS[a.cls].managed });
  }
  if (poisoned.items.length > 0 && m.profile.poisonRefuses) {
    const message = `block ${block}: memory page has hardware error: ${poisoned.pages} poisoned frames`;
    return err(refusal('poisoned', message, poisoned.items));
  }
  const zone = zoneForBlock(m, row, how);
  const objection = askListeners(m, block);
  if (objection !== undefined) {
    const digits = (pfn: number): string => `0x${(pfn * PAGE_SIZE).toString(16).padStart(8, '0')}`;
    const last = `0x${(endPfn * PAGE_SIZE - 1).toString(16).padStart(8, '0')}`;
    m.onLog?.({ level: 'debug', text: `online_pages [mem ${digits(startPfn + vmemmap)}-${last}] failed` });
    if (m.spec.compat === 'linux') spanAfterVeto(m, m.poolOfZone(blocks.node[row] as number, zone), startPfn, endPfn);
    return err(objection);
  }

  // ═══ Point of no return: nothing below can fail. ═══
  if (poisoned.items.length > 0) {
    // Before 6.2 the struct pages of a block that comes online are written anew, and the mark is lost (lab fact 19).
    poisonRenewed(m, block);
    for (const p of stayed.filter((s) => s.managed)) m.forget(p.head);
    const rest = stayed.filter((s) => !s.managed);
    stayed.splice(0, stayed.length, ...rest);
  }
  const pool = m.poolOfZone(blocks.node[row] as number, zone);
  pool.widen(whole, end, m.sections.frames);
  m.owners.setZone(whole >>> PAGEBLOCK_ORDER, end >>> PAGEBLOCK_ORDER, pool.id);
  m.frameWatch?.owned(whole, end);
  for (let i = whole; i < start; i += PAGEBLOCK_PAGES) pool.alloc.setPageblockType(i - pool.base, MIGRATE_UNMOVABLE);
  // Kernel pages that were moved out of here come home first: their addresses are these frames' (kremap/home.ts).
  if (comeHome(m, pool, start, end)) {
    stayed.length = 0;
    for (const a of allocationsIn(m, start, end)) stayed.push({ head: a.head, pages: 1 << a.order, managed: false });
  }
  const managed = pool.managed;
  let at = start;
  for (const s of stayed) {
    if (s.head > at) onlinePagesRange(m, pool, at, s.head);
    at = s.head + s.pages;
  }
  if (end > at) onlinePagesRange(m, pool, at, end);
  const pages = pool.managed - managed;
  if (headManaged(m, startPfn)) pool.managed += vmemmap;
  pool.present += end - whole;
  if (blocks.early[row] === 1) pool.presentEarly += end - whole;
  countGroup(m, row, pool, end - whole);
  growSpan(pool, startPfn, endPfn);
  blocks.state[row] = BLOCK_ONLINE;
  blocks.pool[row] = pool.id;
  m.updateWatermarks();
  for (const n of m.notifiers) n.online?.(block);
  m.emit({ type: 'online', block, zone: pool.name });
  return ok({ block, pages, zone: pool.name });
}

/**
 * Linux gives the block to the zone before it asks and takes it back afterwards: a zone that spanned more than its memory
 * (to the border at 4 GiB) then ends at the last memory that is there.
 */
function spanAfterVeto(m: Machine, pool: Pool, start: number, end: number): void {
  growSpan(pool, start, end);
  shrinkSpan(m, pool, start, end);
}

/** PREPARE_ONLINE and GOING_ONLINE. CANCEL_ONLINE also reaches listeners behind the one that objected. */
function askListeners(m: Machine, block: BlockId): Refusal | undefined {
  const objects = (n: Notifier, errno: ErrnoName): Refusal => {
    return { ...refusal('notifier', `block ${block}: notifier failure: ${n.name} objects to online`), errno };
  };
  for (const n of m.notifiers) {
    const errno = n.prepareOnline?.(block);
    if (errno !== undefined) return objects(n, errno); // nothing was prepared: there is nothing to cancel
  }
  for (const n of m.notifiers) {
    const errno = n.goingOnline?.(block);
    if (errno === undefined) continue;
    for (const o of m.notifiers) o.cancelOnline?.(block);
    for (const o of m.notifiers) o.finishOffline?.(block);
    return objects(n, errno);
  }
  return undefined;
}

/** Heads of memory that hosts the memmap of all of it count as managed and allocated; those of a block do not. */
export const headManaged = (m: Machine, startPfn: number): boolean =>
  m.hotplug.ranges.some((r) => r.policy === 'self-range' && r.start <= startPfn && startPfn < r.end);

/** Present pages of the block's group, in kernel zones or Movable. */
export function countGroup(m: Machine, row: number, pool: Pool, pages: number): void {
  const group = m.hotplug.groups.get(m.blocks.group[row] as number);
  if (group === undefined) return;
  if (pool.zone === ZONE_MOVABLE) group.presentMovable += pages;
  else group.presentKernel += pages;
}
