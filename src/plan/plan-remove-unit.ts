// One unit of a removal: blocks that go offline together, and then perhaps the device that they lie on.
//
//   blocks ──verdict of each alone──> worst first ──rehearsed in that order──> steps, each with what it cost there
//               │ no                                  │ not carried out
//               └── refused, by block and holder ─────┘      (with `force`: planned all the same, the risk told)
//
// Worst first: the block most in doubt, then the one with most pages to move. A refusal then comes while little has been
// done, and little has to be put back. Blocks that are offline already need no step.
//
// Invariant: a unit without `refused` was carried out on the rehearsal, step by step, unless it was forced; a unit that was
// refused left the rehearsal as it was.

import { formatSize, hex, plural } from '#base/format';
import { type Blocker, PAGE_SIZE } from '#mm/index';
import type { BlockVerdict } from '#twin/index';
import { isDeviceId } from './goal.ts';
import { type BlockSeen, blocksWithin, type DimmSeen } from './observation.ts';
import type { Rejected } from './plan.ts';
import { type PlanInput, type PlanOptions, type StepDraft, type UnitDraft, worstFirst } from './plan-input.ts';
import { Rehearsal } from './rehearsal.ts';
import { offlineStep, removeDimmStep } from './steps.ts';

export type Tried =
  | {
      readonly unit: UnitDraft;
      /** The fork after it. */
      readonly after: Rehearsal;
      /** Sentences: what is in doubt, and how. */
      readonly doubts: readonly string[];
    }
  | { readonly unit: undefined; readonly rejected: readonly Rejected[] };

const WHY_MAX = 3;

/**
 * Takes blocks offline, all or nothing.
 *
 * @param name  of the unit
 * @param ids   ascending; those that are not there (a DIMM that the guest has not seen) are left out
 */
export function offlineUnit(
  input: PlanInput,
  options: PlanOptions,
  before: Rehearsal,
  what: { readonly name: string; readonly ids: readonly number[]; readonly dimm?: DimmSeen },
): Tried {
  const { observation: o, twin } = input;
  const wanted = new Set(what.ids);
  const blocks = o.blocks.filter((b) => wanted.has(b.id) && b.state !== 'offline');
  const rejected: Rejected[] = [];
  const after = new Rehearsal(twin, before);
  for (const b of blocks.filter((x) => x.state !== 'online')) {
    const reason = `it is ${b.state} right now: wait until that is over, or end whoever does it`;
    rejected.push({ name: `block:${b.id}`, reason });
  }
  if (rejected.length > 0) return { unit: undefined, rejected }; // not even by force: its state is not one to act on
  const order = orderOf(blocks, after);
  if (options.force !== true) {
    const no = order.flatMap(({ alone }) => (alone?.verdict === 'no' ? [alone] : []));
    if (no.length > 0) return { unit: undefined, rejected: no.sort((x, y) => x.block - y.block).map(sayRefused) };
  }

  const steps: StepDraft[] = [];
  const doubts: string[] = [];
  let allDone = true;
  for (const { block: b } of order) {
    const done = after.offline(b.id);
    if (done === undefined) continue;
    const { verdict } = done;
    if (!done.done && options.force !== true) return { unit: undefined, rejected: [sayRefused(verdict)] };
    allDone &&= done.done;
    const risk = riskOf(b, verdict, done.done, after);
    if (risk !== undefined) doubts.push(`block ${b.id}: ${risk}`);
    steps.push(offlineStep(o, b, { pagesToMove: verdict.pagesToMigrate, ms: verdict.predictedMs }, risk));
  }
  const { dimm } = what;
  if (dimm !== undefined) {
    const there = what.ids.filter((id) => o.blocks.some((b) => b.id === id)).length;
    const whole = there * o.blockBytes === dimm.size;
    const refused = whole && allDone ? after.remove(dimm.addr, dimm.size) : undefined;
    if (refused !== undefined && options.force !== true)
      return { unit: undefined, rejected: [{ name: what.name, reason: refused.message }] };
    steps.push(removeDimmStep(o, dimm));
  }
  const bytes = dimm?.size ?? blocks.length * o.blockBytes;
  const reaches = dimm === undefined ? `${formatSize(bytes)} offline` : `${formatSize(bytes)} less`;
  return { unit: { name: what.name, reaches, bytes, steps }, after, doubts };
}

/** Worst first, by each one's verdict alone; one block needs none for that. */
function orderOf(
  blocks: readonly BlockSeen[],
  now: Rehearsal,
): readonly { readonly block: BlockSeen; readonly alone: BlockVerdict | undefined }[] {
  if (blocks.length < 2) return blocks.map((block) => ({ block, alone: undefined }));
  return blocks
    .flatMap((block) => {
      const alone = now.judge(block.id);
      return alone === undefined ? [] : [{ block, alone }];
    })
    .sort((a, b) => worstFirst(a.alone, b.alone));
}

/** A DIMM of the hypervisor: its blocks offline, then it goes. */
export function dimmUnit(input: PlanInput, options: PlanOptions, before: Rehearsal, dimm: DimmSeen): Tried {
  const name = `dimm:${dimm.id}`;
  if (!isDeviceId(dimm.id) || !isDeviceId(dimm.memdev)) {
    const reason = `the DIMM at 0x${hex(dimm.addr)} has no id that a request could name`;
    return { unit: undefined, rejected: [{ name, reason }] };
  }
  const ids = blocksWithin(input.observation, dimm.addr, dimm.size);
  return offlineUnit(input, options, before, { name, ids, dimm });
}

/** One sentence, or none when nothing is known against the step. */
function riskOf(b: BlockSeen, v: BlockVerdict, done: boolean, after: Rehearsal): string | undefined {
  if (!done) return `will probably be refused (${v.errno ?? 'EBUSY'}): ${v.reason}`;
  if (v.verdict !== 'yes') return v.reason;
  const zones = after.zonesOf(b.id);
  if (b.zone === undefined || zones === undefined || zones.includes(b.zone)) return undefined;
  return `if it has to come back, it comes to ${zones[0]}: nothing of ${b.zone} is left around it`;
}

/** Why a block does not go, with pages and holders. */
export function sayRefused(v: BlockVerdict): Rejected {
  const shown = [...v.blockers].sort((a, b) => b.endPfn - b.startPfn - (a.endPfn - a.startPfn)).slice(0, WHY_MAX);
  const holders = shown.map(sayBlocker).join('; ');
  const more = v.blockers.length > shown.length ? `; and ${plural(v.blockers.length - shown.length, 'more run')}` : '';
  return { name: `block:${v.block}`, reason: `${v.reason}${holders === '' ? '' : `: ${holders}${more}`}` };
}

/** "12 pages at 0x88012000 held by slab". */
function sayBlocker(b: Blocker): string {
  return `${plural(b.endPfn - b.startPfn, 'page')} at 0x${hex(b.startPfn * PAGE_SIZE)} held by ${b.name}`;
}
