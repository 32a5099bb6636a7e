// virtio-mem in a plan: how far a device can shrink, tried on a fork as its driver does it; and how far it can grow.
//
//   blocks of the device's region, in the driver's order (spec 5.4):
//      offline, high to low ──> partly plugged: Movable, kernel zones ──> wholly plugged: Movable, kernel zones
//   each block: whole, if that much is wanted and it goes ──else──> its pieces, high to low; pieces in use are skipped
//
//   ──> stages: (bytes given so far, pages moved so far) after each block; the last one is as far as it goes
//
// What the page flags of the twin show as never plugged is not given twice. How much of an offline block is plugged the guest
// does not tell: it is taken to be all of it, and the sum never exceeds what the hypervisor says is plugged.

import { formatSize, hex } from '#base/format';
import { allocContigRange } from '#mm/contig-alloc';
import { type Machine, PAGE_SIZE, PAGEBLOCK_PAGES, toBlockId, toPfn } from '#mm/index';
import type { Twin } from '#twin/index';
import { releaseSoft } from '#twin/verdict';
import { isDeviceId } from './goal.ts';
import { blocksWithin, type Observation, type VirtioMemSeen } from './observation.ts';
import type { PlanInput, UnitDraft } from './plan-input.ts';
import { Rehearsal } from './rehearsal.ts';
import { virtioMemStep } from './steps.ts';

export type ShrinkStage = { readonly bytes: number; readonly pages: number };

export type Shrink = {
  /** Ascending; the last is all that was given. Empty: nothing was. */
  readonly stages: readonly ShrinkStage[];
  readonly bytes: number;
  readonly pages: number;
  /** Why not more, when less was given than wanted; of what stood in the way first. */
  readonly stoppedBy: string | undefined;
  readonly after: Rehearsal;
};

/** One sentence for a device that no request could name. */
export const nameless = (v: VirtioMemSeen): string | undefined =>
  isDeviceId(v.id) ? undefined : `the virtio-mem device at 0x${hex(v.addr)} has no id that a request could name`;

/** Linux tries a piece of ZONE_MOVABLE this often; once on the fork is as good, as nothing else runs there. */
const PIECE_PAGES = PAGEBLOCK_PAGES;

/**
 * Shrinks a device on a fork of `before`.
 *
 * @param wanted  bytes, at most what is plugged; rounded up to the device's blocks
 */
export function tryShrink(input: PlanInput, before: Rehearsal, v: VirtioMemSeen, wanted: number): Shrink {
  const { observation: o, twin } = input;
  const after = new Rehearsal(twin, before);
  const goal = Math.min(v.size, Math.ceil(wanted / v.blockSize) * v.blockSize);
  const stages: ShrinkStage[] = [];
  let bytes = 0;
  let pages = 0;
  let stoppedBy: string | undefined;
  const pieceBytes = Math.max(v.blockSize, PIECE_PAGES * PAGE_SIZE);
  for (const b of driverOrder(o, after.machine, v)) {
    if (bytes >= goal) break;
    const had = bytes;
    const whole = b.offline || b.plugged > goal - bytes ? undefined : after.offline(b.id, 'yes');
    if (b.offline || whole?.done === true) {
      bytes += Math.min(b.plugged, goal - bytes);
      pages += whole?.verdict.pagesToMigrate.value ?? 0;
      after.remove(b.id * o.blockBytes, o.blockBytes);
    } else if (after.machine !== undefined && pieceBytes < o.blockBytes) {
      const pieces = takePieces(after.machine, b, { pieceBytes, goal: goal - bytes, held: pinRuns(twin, b.id) });
      bytes += pieces.bytes;
      pages += pieces.pages;
      if (bytes < goal) stoppedBy ??= pieces.why;
    } else {
      stoppedBy ??= whole?.verdict.reason ?? `block ${b.id} goes only whole`;
    }
    if (bytes > had) stages.push({ bytes, pages });
  }
  const why = stoppedBy ?? `${formatSize(v.size)} are plugged`;
  return { stages, bytes, pages, stoppedBy: bytes < goal ? why : undefined, after };
}

/** The device's unit in a plan: shrunk by `bytes`. @param pages  that move */
export function shrinkUnit(v: VirtioMemSeen, bytes: number, pages: number): UnitDraft {
  const to = v.size - bytes;
  return {
    name: `virtio-mem:${v.id}`,
    reaches: `${formatSize(bytes)} less`,
    bytes,
    steps: [virtioMemStep(v, to, { pagesToMove: { value: pages, provenance: 'derived' } })],
  };
}

type DeviceBlock = {
  readonly id: number;
  readonly offline: boolean;
  readonly movable: boolean;
  /** Bytes. */
  readonly plugged: number;
};

function driverOrder(o: Observation, m: Machine | undefined, v: VirtioMemSeen): DeviceBlock[] {
  const region = new Set(blocksWithin(o, v.addr, v.maxSize));
  const blocks = o.blocks
    .filter((b) => region.has(b.id))
    .map((b): DeviceBlock => {
      const out = m === undefined || b.state === 'offline' ? 0 : neverPlugged(m, b.id);
      return {
        id: b.id,
        offline: b.state === 'offline',
        movable: b.zone === 'Movable',
        plugged: o.blockBytes - out * PAGE_SIZE,
      };
    });
  const rank = (b: DeviceBlock): number => (b.offline ? 0 : (b.plugged < o.blockBytes ? 1 : 3) + (b.movable ? 0 : 1));
  return blocks.sort((a, b) => rank(a) - rank(b) || b.id - a.id);
}

/** Frames of a block that the guest does not have. */
function neverPlugged(m: Machine, id: number): number {
  let pages = 0;
  eachAllocation(m, id, (cls, frames) => {
    if (cls === 'unplugged') pages += frames;
  });
  return pages;
}

function eachAllocation(m: Machine, id: number, each: (cls: string, frames: number) => void): void {
  const block = m.block(toBlockId(id));
  if (block === undefined) return;
  for (let pfn: number = block.startPfn; pfn < block.endPfn; ) {
    const f = m.frame(toPfn(pfn));
    if (f.state !== 'used') {
      pfn++;
      continue;
    }
    each(f.class, 1 << f.order);
    pfn = f.head + (1 << f.order);
  }
}

type Run = { readonly startPfn: number; readonly endPfn: number };

/** Frames that look held by somebody: a piece with one of them does not go. */
const pinRuns = (twin: Twin, id: number): readonly Run[] =>
  twin.level === 'pages' ? (twin.evidence.get(toBlockId(id))?.pinRuns ?? []) : [];

/** Pieces of an online block, high to low, as fake-offline takes them. */
function takePieces(
  m: Machine,
  b: DeviceBlock,
  want: { readonly pieceBytes: number; readonly goal: number; readonly held: readonly Run[] },
): { bytes: number; pages: number; why: string | undefined } {
  const block = m.block(toBlockId(b.id));
  const out = { bytes: 0, pages: 0, why: undefined as string | undefined };
  if (block?.pool === undefined) return out;
  releaseSoft(m, toBlockId(b.id));
  const holder = m.addHolder({ class: 'unplugged', name: 'given back by virtio-mem', node: block.node });
  const step = want.pieceBytes / PAGE_SIZE;
  for (let end: number = block.endPfn; end > block.startPfn && out.bytes < want.goal; end -= step) {
    const f = m.frame(toPfn(end - 1));
    if (f.state === 'used' && f.class === 'unplugged') continue;
    if (want.held.some((r) => r.startPfn < end && end - step < r.endPfn)) {
      out.why ??= 'pages that look pinned';
      continue;
    }
    const taken = allocContigRange(m, toPfn(end - step), toPfn(end), { holder });
    if (taken.ok) {
      out.bytes += want.pieceBytes;
      out.pages += taken.value.migratedPages;
    } else {
      out.why ??= taken.error.message;
    }
  }
  return out;
}
