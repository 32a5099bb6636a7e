// virtio-mem in big-block mode: the device's block is at least a memory block, and is plugged and unplugged whole.
//
//   plug      unused, new                       big blocks ascending
//   unplug    offline; offline or all of it     big blocks descending; one that is busy is skipped
//             in Movable; any
//
//   big block   │ memory128 │ memory129 │ memory130 │ memory131 │
//   safe unplug   1 fake-offline: what comes online from now on stays out; every online section is emptied
//                 2 all its blocks are offlined and removed      3 UNPLUG
//                 a refusal of 1 or 2 puts back what was taken
//
// Without safe unplug its blocks are offlined with their contents in place, which may take for ever in Linux.
//
// Follows Linux v6.12 drivers/virtio/virtio_mem.c: virtio_mem_bbm_*() (spec 5.4).

import { type Pfn, toPfn } from '#base/units';
import { PAGE_SIZE, PAGES_PER_SECTION } from '../geometry.ts';
import { ZONE_MOVABLE } from '../page-class.ts';
import type { Rc, VirtioMem } from './virtio-mem.ts';
import { BBM_ADDED, BBM_FAKE_OFFLINE, BBM_PLUGGED, BBM_UNUSED } from './virtio-mem-blocks.ts';

function plugBb(vm: VirtioMem, row: number): Rc {
  const rc = vm.sendPlug(vm.addrOf(row), vm.unitSize);
  if (rc === 'ok') vm.blocks.setPlugged(row, 0, 1, true);
  return rc;
}

function unplugBb(vm: VirtioMem, row: number): Rc {
  const rc = vm.sendUnplug(vm.addrOf(row), vm.unitSize);
  if (rc === 'ok') vm.blocks.setPlugged(row, 0, 1, false);
  return rc;
}

/** First frame of each section of a big block. */
function* sectionsOf(vm: VirtioMem, row: number): Generator<Pfn> {
  const start = vm.addrOf(row) / PAGE_SIZE;
  for (let pfn = start; pfn < start + vm.unitSize / PAGE_SIZE; pfn += PAGES_PER_SECTION) yield toPfn(pfn);
}

/** Plugs up to `bytes`, whole big blocks. */
export function* plugBbm(vm: VirtioMem, bytes: number): Generator<void, Rc> {
  let left = Math.floor(bytes / vm.unitSize);
  const { blocks } = vm;
  for (let row = 0; left > 0 && row < blocks.next && blocks.count(BBM_UNUSED) > 0; row++) {
    if (blocks.stateAt(row) !== BBM_UNUSED) continue;
    if (!vm.couldAdd(vm.unitSize)) return 'ENOSPC';
    const rc = plugAndAdd(vm, row);
    if (rc !== 'ok') return rc;
    left--;
    yield;
  }
  while (left > 0) {
    if (!vm.couldAdd(vm.unitSize) || blocks.next > vm.lastUsableRow) return 'ENOSPC';
    const rc = plugAndAdd(vm, blocks.prepareNext());
    if (rc !== 'ok') return rc;
    left--;
    yield;
  }
  return 'ok';
}

function plugAndAdd(vm: VirtioMem, row: number): Rc {
  const plugged = plugBb(vm, row);
  if (plugged !== 'ok') return plugged;
  vm.blocks.setState(row, BBM_ADDED);
  const rc = vm.addUnit(row);
  if (rc !== 'ok') vm.blocks.setState(row, unplugBb(vm, row) === 'ok' ? BBM_UNUSED : BBM_PLUGGED);
  return rc;
}

/** Unplugs up to `bytes`, whole big blocks. @returns EBUSY: less than that could be had; else the errno that ended it. */
export function* unplugBbm(vm: VirtioMem, bytes: number): Generator<void, Rc> {
  let left = Math.floor(bytes / vm.unitSize);
  const { blocks } = vm;
  if (left === 0) return 'ok';
  const passes = [isOffline, isMovable, () => true];
  for (const fits of passes) {
    for (let row = blocks.next - 1; row >= 0 && blocks.count(BBM_ADDED) > 0; row--) {
      if (blocks.stateAt(row) !== BBM_ADDED || !fits(vm, row)) continue;
      yield;
      const rc = yield* offlineRemoveUnplug(vm, row);
      if (rc === 'EBUSY') continue;
      if (rc === 'ok') left--;
      if (rc !== 'ok' || left === 0) return rc;
    }
    if (fits === isOffline && !vm.unplugOnline) return 'ok';
  }
  return left > 0 ? 'EBUSY' : 'ok';
}

function isOffline(vm: VirtioMem, row: number): boolean {
  for (const pfn of sectionsOf(vm, row)) if (vm.pages.zoneOf(pfn) !== undefined) return false;
  return true;
}

/** All that is online of it is in Movable. */
function isMovable(vm: VirtioMem, row: number): boolean {
  for (const pfn of sectionsOf(vm, row))
    if ((vm.pages.zoneOf(pfn)?.zone ?? ZONE_MOVABLE) !== ZONE_MOVABLE) return false;
  return true;
}

function* offlineRemoveUnplug(vm: VirtioMem, row: number): Generator<void, Rc> {
  const { blocks } = vm;
  if (vm.safeUnplug) {
    vm.hold(row);
    blocks.setState(row, BBM_FAKE_OFFLINE);
    for (const pfn of sectionsOf(vm, row)) {
      if (vm.pages.zoneOf(pfn) === undefined) continue;
      const taken = yield* vm.pages.takeOut(pfn, toPfn(pfn + PAGES_PER_SECTION));
      if (taken !== 'ok') return rollback(vm, row, taken);
    }
    vm.hold(-1);
  }
  const rc = vm.offlineAndRemoveUnit(row);
  if (rc !== 'ok') return vm.safeUnplug ? rollback(vm, row, rc) : rc;
  const unplugged = unplugBb(vm, row);
  blocks.setState(row, unplugged === 'ok' ? BBM_UNUSED : BBM_PLUGGED);
  return unplugged;
}

/** What was taken out is free again. */
function rollback(vm: VirtioMem, row: number, rc: Rc): Rc {
  for (const pfn of sectionsOf(vm, row)) if (vm.pages.holds(pfn)) vm.pages.putBack(pfn, toPfn(pfn + PAGES_PER_SECTION));
  vm.blocks.setState(row, BBM_ADDED);
  vm.hold(-1);
  return rc;
}

/** Big blocks that could neither be added nor unplugged again. */
export function unplugPendingBbm(vm: VirtioMem): Rc {
  const { blocks } = vm;
  for (let row = 0; row < blocks.next && blocks.count(BBM_PLUGGED) > 0; row++) {
    if (blocks.stateAt(row) !== BBM_PLUGGED) continue;
    const rc = unplugBb(vm, row);
    if (rc !== 'ok') return rc;
    blocks.setState(row, BBM_UNUSED);
  }
  return 'ok';
}
