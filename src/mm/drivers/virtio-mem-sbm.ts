// virtio-mem in sub-block mode: a memory block holds several sub-blocks (2 MiB), each plugged or not.
//
//   plug      kernel-partial, movable-partial, offline-partial, unused, new          blocks ascending, sub-blocks ascending
//   unplug    offline-partial, offline, movable-partial, kernel-partial, movable,    blocks descending: the whole block at
//             kernel                                                                 once, else sub-blocks descending; a
//                                                                                    busy one is skipped
//
//   block 34    │■■■■■■■■■■■■□□□□│ movable-partial            ■ plugged, in use by Linux    □ kept out
//   plug 3            ───>■■■
//   unplug 5     <───□□□□□
//
// A new block is plugged first and added then, so that what comes online is what is plugged. A block that has nothing
// plugged any more is offlined and removed. One step is one try of one run of sub-blocks.
//
// Follows Linux v6.12 drivers/virtio/virtio_mem.c: virtio_mem_sbm_*() (spec 5.4).

import { assert } from '#base/assert';
import { toPfn } from '#base/units';
import { PAGE_SIZE } from '../geometry.ts';
import type { Rc, VirtioMem } from './virtio-mem.ts';
import {
  SBM_KERNEL,
  SBM_KERNEL_PARTIAL,
  SBM_MOVABLE,
  SBM_MOVABLE_PARTIAL,
  SBM_OFFLINE,
  SBM_OFFLINE_PARTIAL,
  SBM_PLUGGED,
  SBM_UNUSED,
} from './virtio-mem-blocks.ts';

/** Sub-blocks still to do: what the parts of one request share. */
type Left = { sb: number };

const PLUG_ORDER = [SBM_KERNEL_PARTIAL, SBM_MOVABLE_PARTIAL, SBM_OFFLINE_PARTIAL];
const UNPLUG_ORDER = [
  SBM_OFFLINE_PARTIAL,
  SBM_OFFLINE,
  SBM_MOVABLE_PARTIAL,
  SBM_KERNEL_PARTIAL,
  SBM_MOVABLE,
  SBM_KERNEL,
];

const sbAddr = (vm: VirtioMem, row: number, sb: number): number => vm.addrOf(row) + sb * vm.sbSize;
const sbPfn = (vm: VirtioMem, row: number, sb: number) => toPfn(sbAddr(vm, row, sb) / PAGE_SIZE);

function plugSb(vm: VirtioMem, row: number, sb: number, count: number): Rc {
  const rc = vm.sendPlug(sbAddr(vm, row, sb), count * vm.sbSize);
  if (rc === 'ok') vm.blocks.setPlugged(row, sb, count, true);
  return rc;
}

function unplugSb(vm: VirtioMem, row: number, sb: number, count: number): Rc {
  const rc = vm.sendUnplug(sbAddr(vm, row, sb), count * vm.sbSize);
  if (rc === 'ok') vm.blocks.setPlugged(row, sb, count, false);
  return rc;
}

// ------------------------------------------------------------------------------------------------------------- plug

/** Plugs up to `bytes`. @returns ENOSPC: no more room, or too much is offline already; else the device's or Linux's errno. */
export function* plugSbm(vm: VirtioMem, bytes: number): Generator<void, Rc> {
  const left: Left = { sb: Math.floor(bytes / vm.sbSize) };
  const { blocks } = vm;
  if (left.sb === 0) return 'ok';
  for (const state of PLUG_ORDER) {
    for (let row = 0; row < blocks.next && blocks.count(state) > 0; row++) {
      if (blocks.stateAt(row) !== state) continue;
      vm.hold(row);
      const rc = yield* plugAnySb(vm, row, left);
      vm.hold(-1);
      if (rc !== 'ok' || left.sb === 0) return rc;
      yield;
    }
  }
  for (let row = 0; row < blocks.next && blocks.count(SBM_UNUSED) > 0; row++) {
    if (blocks.stateAt(row) !== SBM_UNUSED) continue;
    if (!vm.couldAdd(vm.unitSize)) return 'ENOSPC';
    const rc = plugAndAdd(vm, row, left);
    if (rc !== 'ok' || left.sb === 0) return rc;
    yield;
  }
  while (left.sb > 0) {
    if (!vm.couldAdd(vm.unitSize) || blocks.next > vm.lastUsableRow) return 'ENOSPC';
    const rc = plugAndAdd(vm, blocks.prepareNext(), left);
    if (rc !== 'ok') return rc;
    yield;
  }
  return 'ok';
}

/** Sub-blocks of a block that Linux knows. */
function* plugAnySb(vm: VirtioMem, row: number, left: Left): Generator<void, Rc> {
  const { blocks } = vm;
  const state = blocks.stateAt(row);
  for (let sb = blocks.firstUnplugged(row); left.sb > 0 && sb < blocks.perBlock; sb = blocks.firstUnplugged(row)) {
    let count = 1;
    while (count < left.sb && sb + count < blocks.perBlock && !blocks.isPlugged(row, sb + count)) count++;
    const rc = plugSb(vm, row, sb, count);
    if (rc !== 'ok') return rc;
    left.sb -= count;
    if (state !== SBM_OFFLINE_PARTIAL) vm.pages.putBack(sbPfn(vm, row, sb), sbPfn(vm, row, sb + count));
    yield;
  }
  if (blocks.allPlugged(row)) blocks.setState(row, state - 1);
  return 'ok';
}

/** A block that Linux does not know: plugged first, so that what comes online is what is plugged. */
function plugAndAdd(vm: VirtioMem, row: number, left: Left): Rc {
  const { blocks } = vm;
  const count = Math.min(left.sb, blocks.perBlock);
  const plugged = plugSb(vm, row, 0, count);
  if (plugged !== 'ok') return plugged;
  // Its listener must find the block offline when it comes online within the add.
  blocks.setState(row, count === blocks.perBlock ? SBM_OFFLINE : SBM_OFFLINE_PARTIAL);
  const rc = vm.addUnit(row);
  if (rc === 'ok') left.sb -= count;
  else blocks.setState(row, unplugSb(vm, row, 0, count) === 'ok' ? SBM_UNUSED : SBM_PLUGGED);
  return rc;
}

// ----------------------------------------------------------------------------------------------------------- unplug

/** Unplugs up to `bytes`. @returns EBUSY: less than that could be had; else the device's errno. */
export function* unplugSbm(vm: VirtioMem, bytes: number): Generator<void, Rc> {
  const left: Left = { sb: Math.floor(bytes / vm.sbSize) };
  const { blocks } = vm;
  if (left.sb === 0) return 'ok';
  for (const state of UNPLUG_ORDER) {
    for (let row = blocks.next - 1; row >= 0 && blocks.count(state) > 0; row--) {
      if (blocks.stateAt(row) !== state) continue;
      vm.hold(row);
      const offline = state === SBM_OFFLINE_PARTIAL || state === SBM_OFFLINE;
      const rc = offline ? unplugOffline(vm, row, left) : yield* unplugOnline(vm, row, left);
      vm.hold(-1);
      if (rc !== 'ok' || left.sb === 0) return rc;
      yield;
    }
    if (!vm.unplugOnline && state === SBM_OFFLINE) return 'ok';
  }
  return left.sb > 0 ? 'EBUSY' : 'ok';
}

/** Plugged sub-blocks of a block that is not online, from the top, as many at once as are neighbours. */
function unplugRaw(vm: VirtioMem, row: number, left: Left): Rc {
  const { blocks } = vm;
  for (let sb = blocks.perBlock - 1; left.sb > 0; sb--) {
    while (sb >= 0 && !blocks.isPlugged(row, sb)) sb--;
    if (sb < 0) break;
    let count = 1;
    for (; count < left.sb && sb > 0 && blocks.isPlugged(row, sb - 1); sb--) count++;
    const rc = unplugSb(vm, row, sb, count);
    if (rc !== 'ok') return rc;
    left.sb -= count;
  }
  return 'ok';
}

function unplugOffline(vm: VirtioMem, row: number, left: Left): Rc {
  const { blocks } = vm;
  const rc = unplugRaw(vm, row, left);
  // Some may have gone before it failed.
  if (!blocks.allPlugged(row)) blocks.setState(row, SBM_OFFLINE_PARTIAL);
  if (rc !== 'ok' || !blocks.nonePlugged(row)) return rc;
  blocks.setState(row, SBM_UNUSED);
  const removed = vm.removeUnit(row);
  assert(removed === 'ok', 'an offline block could not be removed', { row, removed });
  return 'ok';
}

function* unplugOnline(vm: VirtioMem, row: number, left: Left): Generator<void, Rc> {
  const { blocks } = vm;
  let whole: Rc = 'EBUSY';
  if (left.sb >= blocks.perBlock && blocks.allPlugged(row)) {
    whole = yield* unplugSbOnline(vm, row, 0, blocks.perBlock);
    if (whole === 'ok') left.sb -= blocks.perBlock;
    else if (whole !== 'EBUSY') return whole;
  }
  for (let sb = blocks.perBlock - 1; whole !== 'ok' && sb >= 0 && left.sb > 0; sb--) {
    if (!blocks.isPlugged(row, sb)) continue;
    yield;
    const rc = yield* unplugSbOnline(vm, row, sb, 1);
    if (rc === 'EBUSY') continue; // in use: the next one
    if (rc !== 'ok') return rc;
    left.sb--;
  }
  if (!blocks.nonePlugged(row)) return 'ok';
  vm.hold(-1); // Linux drops its mutex here: the block's own notifications come
  if (vm.offlineAndRemoveUnit(row) === 'ok') blocks.setState(row, SBM_UNUSED);
  return 'ok';
}

/** Empties sub-blocks of an online block and gives them to the device; when that refuses, they are free again. */
function* unplugSbOnline(vm: VirtioMem, row: number, sb: number, count: number): Generator<void, Rc> {
  const { blocks } = vm;
  const state = blocks.stateAt(row);
  const start = sbPfn(vm, row, sb);
  const end = sbPfn(vm, row, sb + count);
  const taken = yield* vm.pages.takeOut(start, end);
  if (taken !== 'ok') return taken;
  const rc = unplugSb(vm, row, sb, count);
  if (rc !== 'ok') vm.pages.putBack(start, end);
  else if (state === SBM_KERNEL || state === SBM_MOVABLE) blocks.setState(row, state + 1);
  return rc;
}

/** Blocks that could neither be added nor unplugged again. */
export function unplugPendingSbm(vm: VirtioMem): Rc {
  const { blocks } = vm;
  for (let row = 0; row < blocks.next && blocks.count(SBM_PLUGGED) > 0; row++) {
    if (blocks.stateAt(row) !== SBM_PLUGGED) continue;
    const rc = unplugRaw(vm, row, { sb: blocks.perBlock });
    if (rc !== 'ok') return rc;
    blocks.setState(row, SBM_UNUSED);
  }
  return 'ok';
}
