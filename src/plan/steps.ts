// Steps: one constructor for each thing a plan does, so that expectation, effect, undo and deadline are the same in all plans.
//
//   step                expect                      effect                        undo
//   offline a block     online, in its zone         offline                       online, to that zone
//   online a block      offline                     online, in the zone asked     offline
//   remove a DIMM       plugged, all blocks offline gone, and its blocks too      none: last of its unit
//   add a DIMM          no such DIMM, no blocks     plugged, all blocks there     remove it (its blocks are offline then)
//   virtio-mem          requested as it is          requested, and the guest      the request as it was
//                                                   has followed
//   balloon             as it is                    as asked                      as it was
//   auto_online_blocks  as it is                    as asked                      as it was
//
// Deadlines are assumed: predicted times are of bare hardware, and emulated guests took up to fifty times as long (lab,
// "Time"), so SLACK times the prediction and never below a floor that a loaded guest was seen to need.

import { formatSize, hex } from '#base/format';
import type { Figure } from '#twin/index';
import { type BlockSeen, blocksWithin, type DimmSeen, type Observation, type VirtioMemSeen } from './observation.ts';
import type { Action, Condition, OnlineZone } from './plan.ts';
import type { StepDraft } from './plan-input.ts';

/** How much longer than predicted anything may take. */
const SLACK = 50;
/** Floors, milliseconds: a block; a DIMM's coming and going; what a guest's driver does page by page. */
const BLOCK_FLOOR_MS = 10_000;
const DIMM_FLOOR_MS = 30_000;
const DRIVER_FLOOR_MS = 60_000;
/** Assumed: bringing a block online, adding a block's struct pages, ejecting an offline block. Bare hardware. */
const ONLINE_BLOCK_MS = 3;
const ADD_BLOCK_MS = 2;
const EJECT_BLOCK_MS = 1;
/** Assumed: a write to a file of the kernel. */
const WRITE_MS = 0.1;
/** Assumed: what a balloon or virtio-mem moves in a millisecond, bytes (spec 8.2, H11: some GiB a second). */
const DRIVER_BYTES_PER_MS = 2 ** 20;

const deadline = (ms: number, floorMs: number): number => Math.max(floorMs, Math.ceil(ms * SLACK));
const assumed = (value: number): Figure => ({ value: Math.round(value * 10) / 10, provenance: 'assumed' });

/** The word that brings a block back to the zone it is in. */
export const zoneWord = (zone: string | undefined): OnlineZone =>
  zone === undefined ? 'default' : zone === 'Movable' ? 'movable' : 'kernel';

/** "block 34 (0x110000000, Movable, node 1)". */
export function sayBlock(o: Observation, b: Pick<BlockSeen, 'id' | 'zone' | 'nodes'>): string {
  const parts = [`0x${hex(b.id * o.blockBytes)}`];
  if (b.zone !== undefined) parts.push(b.zone);
  if (b.nodes.length > 0) parts.push(`node ${b.nodes.join('+')}`);
  return `block ${b.id} (${parts.join(', ')})`;
}

/** Takes a block offline; the block comes back to the zone that it is in now. @param b  online */
export function offlineStep(
  o: Observation,
  b: BlockSeen,
  predicts: { readonly pagesToMove: Figure; readonly ms: Figure },
  risk?: string,
): StepDraft {
  return {
    title: `offline ${sayBlock(o, b)}`,
    action: { do: 'offline-block', block: b.id },
    expect: [{ is: 'block', block: b.id, state: 'online', ...(b.zone === undefined ? {} : { zone: b.zone }) }],
    effect: [{ is: 'block', block: b.id, state: 'offline' }],
    predicts,
    ...(risk === undefined ? {} : { risk }),
    undo: [{ do: 'online-block', block: b.id, zone: zoneWord(b.zone) }],
    deadlineMs: deadline(predicts.ms.value, BLOCK_FLOOR_MS),
  };
}

/** @param zoneName  as valid_zones will print it; undefined where it is not known beforehand */
export function onlineStep(
  o: Observation,
  block: Pick<BlockSeen, 'id' | 'nodes'>,
  zone: OnlineZone,
  zoneName: string | undefined,
): StepDraft {
  return {
    title: `online ${sayBlock(o, { ...block, zone: zoneName })}`,
    action: { do: 'online-block', block: block.id, zone },
    expect: [{ is: 'block', block: block.id, state: 'offline' }],
    effect: [{ is: 'block', block: block.id, state: 'online', ...(zoneName === undefined ? {} : { zone: zoneName }) }],
    predicts: { ms: assumed(ONLINE_BLOCK_MS) },
    undo: [{ do: 'offline-block', block: block.id }],
    deadlineMs: deadline(ONLINE_BLOCK_MS, BLOCK_FLOOR_MS),
  };
}

/** The end of a DIMM: nothing undoes it, and nothing is left to undo. */
export function removeDimmStep(o: Observation, dimm: DimmSeen): StepDraft {
  const there = new Set(o.blocks.map((b) => b.id));
  const blocks = blocksWithin(o, dimm.addr, dimm.size).filter((id) => there.has(id));
  const gone: Condition[] = [{ is: 'dimm', id: dimm.id, present: false }, ...spans(blocks, false)];
  const ms = EJECT_BLOCK_MS * Math.max(1, blocks.length);
  return {
    title: `remove DIMM ${dimm.id} (${formatSize(dimm.size)} at 0x${hex(dimm.addr)})`,
    action: { do: 'remove-dimm', id: dimm.id, memdev: dimm.memdev },
    expect: [
      { is: 'dimm', id: dimm.id, present: true },
      ...blocks.map((block): Condition => ({ is: 'block', block, state: 'offline' })),
    ],
    effect: gone,
    predicts: { bytesFreed: { value: dimm.size, provenance: 'derived' }, ms: assumed(ms) },
    deadlineMs: deadline(ms, DIMM_FLOOR_MS),
  };
}

export function addDimmStep(o: Observation, dimm: Omit<DimmSeen, 'slot'>): StepDraft {
  const blocks = blocksWithin(o, dimm.addr, dimm.size);
  const ms = ADD_BLOCK_MS * blocks.length;
  const { id, memdev, size: bytes, node, addr } = dimm;
  return {
    title: `add DIMM ${id} (${formatSize(bytes)} at 0x${hex(addr)}, node ${node})`,
    action: { do: 'add-dimm', id, memdev, bytes, node, addr },
    expect: [{ is: 'dimm', id, present: false }, ...spans(blocks, false)],
    effect: [{ is: 'dimm', id, present: true }, ...spans(blocks, true)],
    predicts: { ms: assumed(ms) },
    undo: [{ do: 'remove-dimm', id, memdev }],
    deadlineMs: deadline(ms, DIMM_FLOOR_MS),
  };
}

/** Asks a virtio-mem device for `bytes`; the guest has followed when that much is plugged. */
export function virtioMemStep(
  v: VirtioMemSeen,
  bytes: number,
  predicts: { readonly pagesToMove?: Figure } = {},
  risk?: string,
): StepDraft {
  const delta = Math.abs(v.size - bytes);
  const ms = delta / DRIVER_BYTES_PER_MS;
  return {
    title: `${bytes < v.requested ? 'shrink' : 'grow'} virtio-mem ${v.id} from ${formatSize(v.size)} to ${formatSize(bytes)} (node ${v.node})`,
    action: { do: 'resize-virtio-mem', id: v.id, bytes },
    expect: [{ is: 'virtio-mem', id: v.id, requested: v.requested }],
    effect: [{ is: 'virtio-mem', id: v.id, requested: bytes, size: bytes }],
    predicts: {
      ...predicts,
      ...(bytes < v.size ? { bytesFreed: { value: v.size - bytes, provenance: 'derived' as const } } : {}),
      ms: assumed(ms),
    },
    ...(risk === undefined ? {} : { risk }),
    undo: [{ do: 'resize-virtio-mem', id: v.id, bytes: v.requested }],
    deadlineMs: deadline(ms, DRIVER_FLOOR_MS),
  };
}

/** @param from, to  what the balloon leaves of the boot memory, bytes */
export function balloonStep(from: number, to: number, risk?: string): StepDraft {
  const ms = Math.abs(from - to) / DRIVER_BYTES_PER_MS;
  return {
    title: `${to < from ? 'inflate' : 'deflate'} the balloon: boot memory from ${formatSize(from)} to ${formatSize(to)}`,
    action: { do: 'balloon', bytes: to },
    expect: [{ is: 'balloon', bytes: from }],
    effect: [{ is: 'balloon', bytes: to }],
    predicts: {
      ...(to < from ? { bytesFreed: { value: from - to, provenance: 'derived' as const } } : {}),
      ms: assumed(ms),
    },
    ...(risk === undefined ? {} : { risk }),
    undo: [{ do: 'balloon', bytes: from }],
    deadlineMs: deadline(ms, DRIVER_FLOOR_MS),
  };
}

export function autoOnlineStep(from: AutoOnlineWord, to: AutoOnlineWord, why: string): StepDraft {
  return {
    title: `set auto_online_blocks to ${to}: ${why}`,
    action: { do: 'auto-online', word: to },
    expect: [{ is: 'auto-online', word: from }],
    effect: [{ is: 'auto-online', word: to }],
    predicts: { ms: assumed(WRITE_MS) },
    undo: [{ do: 'auto-online', word: from }],
    deadlineMs: BLOCK_FLOOR_MS,
  };
}
type AutoOnlineWord = Extract<Action, { do: 'auto-online' }>['word'];

/** Runs of consecutive ids as conditions. @param ids  ascending */
function spans(ids: readonly number[], present: boolean): Condition[] {
  const out: { is: 'blocks'; first: number; last: number; present: boolean }[] = [];
  for (const id of ids) {
    const run = out[out.length - 1];
    if (run !== undefined && run.last + 1 === id) run.last = id;
    else out.push({ is: 'blocks', first: id, last: id, present });
  }
  return out;
}

export const sumMs = (steps: readonly StepDraft[]): number => steps.reduce((ms, s) => ms + s.predicts.ms.value, 0);
export const sumPages = (steps: readonly StepDraft[]): number =>
  steps.reduce((n, s) => n + (s.predicts.pagesToMove?.value ?? 0), 0);
