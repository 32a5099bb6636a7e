// Area contracts: an area of memory is promised to be removable, and the promise is kept.
//
//   contract           zone       who may lie there                         long-term pins             struct pages of others
//   removable-strict   Movable    what moves, or is given up when asked     moved out, else refused    none
//   removable          Movable    what Linux lets into ZONE_MOVABLE         moved out, else refused    may be, 9.D moves them
//   best-effort        Movable    the same, in blocks that could be had     moved out, else granted    may be
//   pinned-ok          a kernel   anything, drivers that give nothing up    stay where they are        may be
//   none               as it is   as Linux has it                           as Linux: out of Movable   may be
//
// The mechanism is Linux's own: ZONE_MOVABLE, block by block. Requests that do not move never come to its free lists, no
// fallback claims or steals there, watermarks of kernel requests do not count it, /proc and valid_zones tell the truth, and
// plain offlining works; a request pays nothing for it. (Pageblocks like CMA's would be as cheap, but /proc would show an
// owner's area, and offlining refuses them.) The contract closes what Linux leaves open in that zone:
//
//   set            what is there leaves first, by one transaction (dimm-offline.ts), and the blocks come back in their zone
//   kernel memory  a caller's word "this may be moved" is not enough for a class that does not move     alloc-path.ts
//   pins           pinLongTerm moves the page out before                                                area-contract-pin.ts
//   refusals       a request that finds memory only there: ENOMEM, `contract`                           alloc-path.ts
//
// Left to the caller: room for what has to move. A contract says what lies in an area, not how full the machine is.
//
// Invariants (check, C13): AR1 areas are whole blocks, ascending, apart; AR2 in a strict area that is in force every
// allocation moves, may stay (poison), or is a driver's who relinquishes; AR3 it hosts no struct pages of others in use.
// Spec 9.F1; Hansen 2005, step 1: "enforce hot-pluggability of a given area".

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, type Pfn, toBlockId, toPfn } from '#base/units';
import {
  CONTRACTS,
  type Contract,
  type ContractArea,
  type ContractCounts,
  contractTable,
  contractTableIfAny,
  rowsUnder,
} from './area-contract-state.ts';
import { type BlockTrial, removeDimm } from './dimm-offline.ts';
import type { Evictor, Occupant } from './evictor.ts';
import { areaTableIfAny } from './fixed-areas/area-table.ts';
import { fixedAreas } from './fixed-areas/fixed-areas.ts';
import { canLeave, driverOf } from './fixed-areas/relinquish.ts';
import type { HolderSpec } from './holder.ts';
import { kernelClassOf } from './kernel-class.ts';
import type { Machine } from './machine.ts';
import { guestsInTheWay } from './memmap-where.ts';
import type { MemoryRange } from './memory-add.ts';
import { BLOCK_ONLINE } from './memory-block.ts';
import type { OfflineOptions } from './memory-hotplug.ts';
import { moverAt } from './migrate.ts';
import { CLASS_TRAITS, ZONE_MOVABLE } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from './page-isolation.ts';
import { extent } from './pools/dma-extent.ts';
import { type Blocker, type Refusal, refusal } from './refusal.ts';

export { CONTRACTS, type Contract, type ContractArea, type ContractCounts, contractAt } from './area-contract-state.ts';

/** Steps that can fail in the world (Machine.faultAt); those of the transaction that empties blocks are DIMM_FAULT_POINTS. */
export const AREA_FAULT_POINTS = ['area.look', 'area.rezone'] as const;

export type SetContractOptions = {
  /** Who else can empty frames; default nobody. */
  readonly evictors?: readonly Evictor[];
  readonly offline?: OfflineOptions;
};

export type ContractReport = {
  readonly area: ContractArea | undefined;
  /** Blocks that were emptied and came online anew. */
  readonly rezoned: readonly BlockId[];
  /** Frames that left, by whom. */
  readonly moved: Readonly<Record<string, number>>;
  /** best-effort: blocks that stay as they are, and why. */
  readonly stayed: readonly { readonly block: BlockId; readonly refusal: Refusal }[];
};

/** Its blockers are what would have to leave and does not. */
export type ContractRefusal = Refusal & { readonly blocks: readonly BlockTrial[] };

/** An area and whether it is as promised. */
export type ContractStat = ContractArea & {
  /** Blocks that are online in a zone that fits; the contract of the others sleeps. */
  readonly inForce: readonly BlockId[];
  /** What lies there that has no place there. Empty in strict areas, always. */
  readonly breaches: readonly Blocker[];
};

const noBlocks = (r: Refusal): ContractRefusal => ({ ...r, blocks: [] });

type ZoneKind = 'movable' | 'kernel';
const WANTED: Readonly<Record<Contract, ZoneKind>> = {
  'removable-strict': 'movable',
  removable: 'movable',
  'best-effort': 'movable',
  'pinned-ok': 'kernel',
};

const kindOf = (m: Machine, block: BlockId): ZoneKind =>
  m.block(block)?.pool?.zone === ZONE_MOVABLE ? 'movable' : 'kernel';

/** Ids of whole blocks, or what is wrong with the range. */
function blocksIn(m: Machine, { start, end }: MemoryRange): Result<BlockId[], Refusal> {
  const { blockPages, blocks } = m;
  if (start >= end || start % blockPages !== 0 || end % blockPages !== 0) {
    return err(refusal('unaligned', `an area is whole blocks of ${blockPages} frames: [${start}, ${end})`));
  }
  const ids: BlockId[] = [];
  for (let id = start / blockPages; id < end / blockPages; id++) {
    const row = blocks.rowOf(toBlockId(id));
    if (row < 0) return err(refusal('no-such-block', `there is no memory block ${id}`));
    if (blocks.state[row] !== BLOCK_ONLINE) return err(refusal('not-online', `block ${id} is not online`));
    ids.push(toBlockId(id));
  }
  return ok(ids);
}

/**
 * How strictly one looks. `set`: nothing that may be there to stay. `now`: pins may be short. `rule`: what the contract lets in;
 * a driver that has died since is the world's doing.
 */
type Look = 'set' | 'now' | 'rule';

/** A driver's area that is given up when somebody asks. */
function isRelinquishable(m: Machine, head: number, look: Look): boolean {
  const table = areaTableIfAny(m);
  const id = table?.at.get(m.sections.pfnOf(head));
  const area = id === undefined ? undefined : table?.areas.get(id);
  if (area === undefined) return false;
  const driver = driverOf(m, area);
  return canLeave(look === 'rule' ? { ...driver, dead: false } : driver, 'ask');
}

/** Why an allocation has no place in a removable area. */
function misfit(m: Machine, a: Occupant, look: Look): Blocker['cause'] | undefined {
  if (CLASS_TRAITS[a.cls].mobility === 'stays') return undefined;
  if (a.pinned && look === 'set') return 'pinned';
  if (moverAt(m, a.head) !== undefined) return undefined;
  if (kernelClassOf(m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))] as HolderSpec) === 'D') {
    return isRelinquishable(m, a.head, look) ? undefined : 'relinquish';
  }
  return a.cls === 'reserved' ? 'reserved' : 'kernel-in-movable';
}

/** What lies in a block that a strict contract does not allow. Cost O(frames in use). */
function misfitsIn(m: Machine, block: BlockId, look: Look): Blocker[] {
  const list = new BlockerList();
  const row = m.blocks.rowOf(block);
  const head = m.sections.indexOf(toPfn(block * m.blockPages));
  for (const a of allocationsIn(m, head + (m.blocks.vmemmapPages[row] as number), head + m.blockPages)) {
    const cause = misfit(m, a, look);
    if (cause !== undefined) list.add(blockerOf(m, a.head, 1 << a.order, cause));
  }
  return [...list.items, ...guestsInTheWay(m, block)];
}

/**
 * Puts an area under a contract, or takes its contract away ('none': zones stay as they are).
 *
 * What has no place there leaves first: blocks that lie in another zone, or have something in them that the contract forbids,
 * are emptied and come online again, all of them or none (best-effort: each that can be had).
 *
 * @param range  whole memory blocks, online; other contracts of the same addresses end there
 * @returns who moved; refusals: unaligned, not-online (EINVAL), no-such-block (ENOENT), those of removeDimm with the list of
 *   what stands in the way, a listener's. A listener that does not let a block come online in the new zone: it and the others
 *   come back in their own (what moved stays moved). Cost O(frames of the blocks).
 */
export function setAreaContract(
  m: Machine,
  range: MemoryRange,
  contract: Contract | 'none',
  options: SetContractOptions = {},
): Result<ContractReport, ContractRefusal> {
  if (contract === 'none') {
    write(m, range, undefined);
    return ok({ area: undefined, rezoned: [], moved: {}, stayed: [] });
  }
  assert(CONTRACTS.includes(contract), 'no such contract', { contract });
  const found = blocksIn(m, range);
  if (!found.ok) return err(noBlocks(found.error));
  if (m.faultAt?.('area.look') === true) return err(noBlocks(refusal('fault', 'the area could not be looked at')));
  const wanted = WANTED[contract];
  const strict = contract === 'removable-strict';
  const change = found.value.filter((id) => kindOf(m, id) !== wanted || (strict && misfitsIn(m, id, 'set').length > 0));
  const stayed: { block: BlockId; refusal: Refusal }[] = [];
  const rezoned: BlockId[] = [];
  const moved: Record<string, number> = {};
  // Together, or each for itself.
  const groups = contract === 'best-effort' ? change.map((id) => [id]) : change.length > 0 ? [change] : [];
  for (const ids of groups) {
    const done = rezone(m, ids, wanted, options);
    if (done.ok) {
      rezoned.push(...ids);
      for (const [who, n] of Object.entries(done.value)) moved[who] = (moved[who] ?? 0) + n;
    } else if (contract === 'best-effort') {
      stayed.push({ block: ids[0] as BlockId, refusal: done.error }); // groups of one
    } else {
      return err(done.error);
    }
  }
  const area = { start: range.start, end: range.end, contract };
  write(m, range, area);
  if (contract === 'pinned-ok') fixedAreas(m).markNonRemovable(extent(range.start, range.end));
  if (strict) unmarkNonRemovable(m, range);
  return ok({ area, rezoned, moved, stayed });
}

/** Empties blocks and brings them online in zones of this kind. @returns frames that moved, by whom */
function rezone(
  m: Machine,
  ids: readonly BlockId[],
  wanted: ZoneKind,
  options: SetContractOptions,
): Result<Readonly<Record<string, number>>, ContractRefusal> {
  const before = ids.map((id) => kindOf(m, id));
  const ranges = ids.map((id) => ({ start: toPfn(id * m.blockPages), end: toPfn((id + 1) * m.blockPages) }));
  const emptied = removeDimm(m, ranges, { ...options, all: true, keep: true });
  if (!emptied.ok) return emptied;
  let refused: Refusal | undefined;
  for (const id of ids) {
    const faulty = m.faultAt?.('area.rezone') === true;
    const came = faulty ? err(refusal('fault', `block ${id} did not come online`)) : m.online(id, wanted);
    refused = came.ok ? undefined : came.error;
    if (refused !== undefined) break;
  }
  if (refused === undefined) return ok(emptied.value.moved);
  for (const [k, id] of ids.entries()) {
    const there = m.block(id)?.state === 'online';
    if (there && kindOf(m, id) === before[k]) continue;
    // A block that others have filled meanwhile stays where it is; one that a listener refuses here too stays offline.
    if (there && !m.offline(id, options).ok) continue;
    m.online(id, before[k] as ZoneKind); // one for each id
  }
  return err({ ...refused, blocks: emptied.value.blocks });
}

/** The table, with [start, end) cut out of what there was. */
function write(m: Machine, { start, end }: MemoryRange, area: ContractArea | undefined): void {
  const table = contractTable(m);
  const rest = table.areas.flatMap((a) =>
    [
      { ...a, end: toPfn(Math.min(a.end, start)) },
      { ...a, start: toPfn(Math.max(a.start, end)) },
    ].filter((x) => x.start < x.end),
  );
  table.areas = [...rest, ...(area === undefined ? [] : [area])].sort((a, b) => a.start - b.start);
}

/** Drivers that give nothing up are not served from a strict area any more; what they had there has left. */
function unmarkNonRemovable(m: Machine, { start, end }: MemoryRange): void {
  const table = areaTableIfAny(m);
  if (table === undefined) return;
  table.nonRemovable = table.nonRemovable.flatMap((x) =>
    [extent(x.start, Math.min(x.end, start)), extent(Math.max(x.start, end), x.end)].filter((p) => p.start < p.end),
  );
}

/** All areas, ascending, and whether they are as promised. Cost O(frames in use of the areas). */
export function areaContracts(m: Machine): ContractStat[] {
  return (contractTableIfAny(m)?.areas ?? []).map((a) => {
    const inForce: BlockId[] = [];
    const breaches: Blocker[] = [];
    for (let id = a.start / m.blockPages; id < a.end / m.blockPages; id++) {
      const block = toBlockId(id);
      if (m.block(block)?.state !== 'online' || kindOf(m, block) !== WANTED[a.contract]) continue;
      inForce.push(block);
      if (a.contract !== 'pinned-ok') breaches.push(...misfitsIn(m, block, 'now'));
    }
    return { ...a, inForce, breaches };
  });
}

export const contractCounts = (m: Machine): Readonly<ContractCounts> => ({ ...contractTable(m).counts });

/** AR1 to AR3, in words; empty when sound. Cost O(frames in use of strict areas). */
export function checkContracts(m: Machine): string[] {
  const wrong: string[] = [];
  let last: Pfn = toPfn(0);
  for (const { start, end } of contractTableIfAny(m)?.areas ?? []) {
    if (start < last || start >= end || start % m.blockPages !== 0 || end % m.blockPages !== 0) {
      wrong.push(`AR1 the area [${start}, ${end}) is not whole blocks behind ${last}`);
    }
    last = end;
  }
  for (const row of rowsUnder(m, 'removable-strict')) {
    for (const b of misfitsIn(m, m.blocks.idAt(row), 'rule')) {
      const rule = b.cause === 'hosts' ? 'AR3' : 'AR2';
      wrong.push(`${rule} strict area: frames ${b.startPfn} to ${b.endPfn} are ${b.class} of ${b.name} (${b.cause})`);
    }
  }
  return wrong;
}
