import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { toBlockId } from '#base/units';
import { readCapture } from '#hosts/linux/read-capture';
import { pfnOf, type SyntheticWorld, syntheticCapture, WORD } from '../../test/support/synthetic-capture.ts';
import { buildTwin } from './build.ts';
import type { Twin } from './twin.ts';
import { type BlockVerdict, Judge, judgeAll, type VerdictCode } from './verdict.ts';

const GOLDEN = fileURLToPath(new URL('../../test/golden/twin/', import.meta.url));

function twinOf(world: SyntheticWorld): Twin {
  const built = buildTwin(syntheticCapture(world));
  if (!built.ok) throw new Error(built.error.message);
  return built.value;
}

function golden(name: string): Twin {
  const capture = readCapture(`${GOLDEN}${name}`, { now: () => new Date(0) });
  if (!capture.ok) throw new Error(capture.error.sentence);
  const built = buildTwin(capture.value);
  if (!built.ok) throw new Error(built.error.message);
  return built.value;
}

/** "no EBUSY unmovable" of one block; every code that was seen is noted. */
const seen = new Set<VerdictCode>();
function verdictOf(twin: Twin, block = 32): BlockVerdict {
  const v = new Judge(twin).judge(toBlockId(block));
  if (v === undefined) throw new Error(`block ${block} is not listed`);
  seen.add(v.code);
  return v;
}
const short = (v: BlockVerdict): string => `${v.verdict} ${v.errno ?? '-'} ${v.code}`;
const said = (world: SyntheticWorld, block?: number): string => short(verdictOf(twinOf(world), block));

/** A second node with room, so that there is somewhere to go. */
const ROOM = [{ id: 40, node: 1 }] as const;
const withRoom = (frames: SyntheticWorld['frames'], rest: Partial<SyntheticWorld> = {}): SyntheticWorld => ({
  blocks: [{ id: 32 }, ...ROOM],
  ...(frames === undefined ? {} : { frames }),
  ...rest,
});
const fill = (block: number, word: readonly [number, number]) => [pfnOf(block), 32768, word] as const;

describe('yes', () => {
  it('V1 nothing in use: all-free', () => {
    expect(said(withRoom([]))).toBe('yes - all-free');
  });

  it('V2 pages that move and have somewhere to go: migrates, with their number', () => {
    const frames = [
      [pfnOf(32), 100, WORD.anon],
      [pfnOf(32, 1), 50, WORD.shmem],
      [pfnOf(32, 2), 7, WORD.mappedFile],
      [pfnOf(32, 4), 1, WORD.thpHead],
      [pfnOf(32, 4) + 1, 511, WORD.thpTail],
      [pfnOf(32, 6), 1, WORD.hugetlbHead],
      [pfnOf(32, 6) + 1, 511, WORD.hugetlbTail],
    ] as const;
    const v = verdictOf(twinOf(withRoom(frames)));
    expect(short(v)).toBe('yes - migrates');
    expect(v.pagesToMigrate).toEqual({ value: 157 + 1024, provenance: 'derived' });
    expect(v.predictedMs.value).toBeGreaterThan(2);
    expect(v.predictedMs.provenance).toBe('assumed');
  });

  it('V3 poison, frames never plugged, an inflated balloon and unflagged single frames do not stop a block', () => {
    const frames = [
      [pfnOf(32), 1, WORD.poisoned],
      [pfnOf(32, 2), 64, WORD.balloon],
      [pfnOf(32, 4) + 3, 200, WORD.nothing],
    ] as const;
    const v = verdictOf(twinOf(withRoom(frames)));
    expect(short(v)).toBe('yes - migrates'); // the balloon's pages move
    expect(v.provenance).toBe('derived'); // for the unflagged frames
    expect(said(withRoom([[pfnOf(32), 1, WORD.poisoned]]))).toBe('yes - all-free');
  });

  it('V4 the memory map that a block keeps on itself does not stop it', () => {
    for (const word of [WORD.selfmemmap, WORD.selfmemmap61]) {
      const world = {
        blocks: [{ id: 32, zone: 'Movable' }, ...ROOM] as const,
        frames: [[pfnOf(32), 512, word]] as const,
      };
      expect(said(world)).toBe('yes - all-free');
    }
  });

  it('V5 clean page cache elsewhere makes room, as direct reclaim does; the sentence tells how much', () => {
    const v = verdictOf(twinOf(withRoom([[pfnOf(32), 1000, WORD.anon], fill(40, WORD.cache)])));
    expect(short(v)).toBe('yes - migrates');
    expect(v.reason).toContain('1000 pages would move elsewhere, after Linux drops up to');
  });

  it('V5 mapped and dirty page cache makes room when the clean part is not enough, shared memory and heaps never', () => {
    expect(said(withRoom([[pfnOf(32), 1000, WORD.anon], fill(40, WORD.mappedFile)]))).toBe('yes - migrates');
    expect(
      said(withRoom([[pfnOf(32), 1000, WORD.anon], fill(40, WORD.mappedFile), [pfnOf(40), 500, WORD.cache]])),
    ).toBe('yes - migrates');
    expect(said(withRoom([[pfnOf(32), 1000, WORD.anon], fill(40, WORD.shmem)]))).toBe('maybe EINTR no-target');
  });
});

describe('no', () => {
  it.each([
    ['slab', WORD.slab],
    ['a page table', WORD.pagetable],
    ['a page reserved at boot', WORD.reserved],
    ['a compound kernel page', WORD.compoundHead],
  ] as const)('V6 one frame of %s: EBUSY, and it is named', (_name, word) => {
    const v = verdictOf(twinOf(withRoom([[pfnOf(32, 9) + 3, 1, word]])));
    expect(short(v)).toBe('no EBUSY unmovable');
    expect(v.blockingPages).toBe(1);
    expect(v.blockers.map((b) => [b.startPfn, b.endPfn])).toEqual([[pfnOf(32, 9) + 3, pfnOf(32, 9) + 4]]);
    expect(v.reason).toMatch(/^1 page cannot move: 1 /);
    expect(v.provenance).toBe('measured');
  });

  it('V6 in ZONE_MOVABLE only a reserved page refuses at once (spec 3.2 rules 2 and 3)', () => {
    const world = (word: readonly [number, number]): SyntheticWorld => ({
      blocks: [{ id: 32, zone: 'Movable' }, ...ROOM],
      frames: [[pfnOf(32, 9), 4, word]],
    });
    expect(said(world(WORD.reserved))).toBe('no EBUSY unmovable');
    expect(said(world(WORD.slab))).toBe('maybe EINTR stuck');
  });

  it('V7 a block with holes: EINVAL, whatever is in it', () => {
    const holes = [[pfnOf(32, 3), pfnOf(32, 3) + 35]] as const;
    const v = verdictOf(twinOf(withRoom([[pfnOf(32), 10, WORD.slab]], { holes })));
    expect(short(v)).toBe('no EINVAL hole');
    expect(v.reason).toContain('35 of its pages');
  });

  it('V8 a block that lies in more than one zone: EINVAL, though nothing is in it', () => {
    const cut = golden('guest-6.1-movablecore.dimmer');
    const none = cut.blocks.filter((b) => b.validZones?.length === 0);
    const codes = none.map((b) => short(verdictOf(cut, b.id)));
    expect(codes.filter((c) => c === 'no EINVAL multizone')).toHaveLength(1);
    expect(codes.filter((c) => !c.startsWith('no EINVAL'))).toEqual([]);
  });

  it('V9 topmost classes are told first, three at the most', () => {
    const frames = [
      [pfnOf(32), 5, WORD.slab],
      [pfnOf(32, 1), 9, WORD.pagetable],
      [pfnOf(32, 2), 2, WORD.reserved],
      [pfnOf(32, 3), 1, WORD.compoundHead],
    ] as const;
    expect(verdictOf(twinOf(withRoom(frames))).reason).toBe(
      '17 pages cannot move: 9 pagetable, 5 slab, 2 reserved, ...',
    );
  });
});

describe('maybe', () => {
  it('V10 nowhere to go: no-target, EINTR', () => {
    const v = verdictOf(twinOf(withRoom([[pfnOf(32), 1000, WORD.anon], fill(40, WORD.anon)])));
    expect(short(v)).toBe('maybe EINTR no-target');
    expect(v.blockingPages).toBe(1000);
  });

  it('V10 pages of a kernel zone need room in a kernel zone: a free ZONE_MOVABLE does not help', () => {
    const blocks = [{ id: 32 }, { id: 40, node: 1 }, { id: 41, node: 1, zone: 'Movable' }] as const;
    const frames = [[pfnOf(32), 1000, WORD.anon], fill(40, WORD.anon)] as const;
    expect(said({ blocks, frames })).toBe('maybe EINTR no-target');
    const movable = [
      { id: 32, zone: 'Movable' },
      { id: 40, node: 1 },
      { id: 41, node: 1, zone: 'Movable' },
    ] as const;
    expect(said({ blocks: movable, frames })).toBe('yes - migrates');
  });

  it('V10 clean page cache helps only where the pages may go: not in ZONE_MOVABLE, not on the own node', () => {
    const blocks = [{ id: 32 }, { id: 33 }, { id: 40, node: 1 }, { id: 41, node: 1, zone: 'Movable' }] as const;
    const frames = [
      [pfnOf(32), 1000, WORD.anon],
      fill(33, WORD.cache),
      fill(40, WORD.anon),
      fill(41, WORD.cache),
    ] as const;
    expect(said({ blocks, frames })).toBe('maybe EINTR no-target');
  });

  it("V10 on one node the block's own node is where its pages go", () => {
    const frames = [[pfnOf(32), 1000, WORD.anon]] as const;
    expect(said({ blocks: [{ id: 32 }, { id: 33 }], frames })).toBe('yes - migrates');
    expect(said({ blocks: [{ id: 32 }, { id: 33 }], frames: [...frames, fill(33, WORD.anon)] })).toBe(
      'maybe EINTR no-target',
    );
  });

  it('V10 room below the min watermark is no room', () => {
    const frames = [[pfnOf(32), 1000, WORD.anon]] as const;
    expect(said(withRoom(frames, { min: { '1 Normal': 31000 } }))).toBe('yes - migrates');
    expect(said(withRoom(frames, { min: { '1 Normal': 32000 } }))).toBe('maybe EINTR no-target');
  });

  it('V11 a long run of referenced anonymous pages looks pinned; single ones are what exec leaves behind', () => {
    expect(said(withRoom([[pfnOf(32), 200, WORD.pinned]]))).toBe('maybe EINTR pin-sign');
    expect(said(withRoom([[pfnOf(32), 100, WORD.pinned]])), 'fewer than 128 in the block').toBe('yes - migrates');
    const scattered = Array.from({ length: 200 }, (_, k) => [pfnOf(32) + 8 * k, 3, WORD.pinned] as const);
    expect(said(withRoom(scattered)), 'runs of three').toBe('yes - migrates');
  });

  it('V11 one page of file system metadata that looks held is enough', () => {
    const v = verdictOf(twinOf(withRoom([[pfnOf(32), 1, WORD.metadata]])));
    expect(short(v)).toBe('maybe EINTR pin-sign');
    expect(v.reason).toContain('1 page of file system metadata');
  });

  it('V12 rows of whole pageblocks without flags in a kernel zone: unflagged, EBUSY', () => {
    const v = verdictOf(twinOf(withRoom([[pfnOf(32, 8), 8 * 512, WORD.nothing]])));
    expect(short(v)).toBe('maybe EBUSY unflagged');
    expect(v.blockingPages).toBe(4096);
    expect(v.blockers).toHaveLength(1);
  });

  it('V13 struct pages that are not initialised: deferred, and no errno is claimed', () => {
    const world = withRoom([[pfnOf(32, 60), 4 * 512, WORD.nothing]], { deferred: { '0 Normal': 2048 } });
    expect(said(world)).toBe('maybe - deferred');
    expect(
      said({ ...world, frames: [...(world.frames ?? []), [pfnOf(32), 1, WORD.slab]] }),
      'slab refuses anyway',
    ).toBe('no EBUSY unmovable');
  });

  it('V14 the last block of a 1 GiB page gets past the check, the others do not', () => {
    const blocks = [...Array.from({ length: 9 }, (_, k) => ({ id: 32 + k })), { id: 48, node: 1 }];
    const frames = [
      [pfnOf(32), 1, WORD.hugetlbHead],
      [pfnOf(32) + 1, 2 ** 18 - 1, WORD.hugetlbTail],
    ] as const;
    const twin = twinOf({ blocks, frames });
    expect(short(verdictOf(twin, 32))).toBe('no EBUSY unmovable');
    expect(short(verdictOf(twin, 38))).toBe('no EBUSY unmovable');
    expect(short(verdictOf(twin, 39))).toBe('maybe EBUSY gigantic');
    expect(short(verdictOf(twin, 40))).toBe('yes - all-free');
  });

  it('V15 a block that is going offline right now is maybe, whatever its pages say', () => {
    const world: SyntheticWorld = { blocks: [{ id: 32, state: 'going-offline' }, ...ROOM] };
    expect(said(world)).toBe('maybe EINTR going-offline');
  });
});

describe('without a verdict, and without page flags', () => {
  it('V16 an offline block has none; a block that is not listed has no answer', () => {
    const twin = twinOf({ blocks: [{ id: 32 }, { id: 33, state: 'offline' }] });
    expect(verdictOf(twin, 33)).toMatchObject({ verdict: undefined, code: 'offline', errno: undefined });
    expect(new Judge(twin).judge(toBlockId(99))).toBeUndefined();
  });

  it('V17 counters alone: yes in ZONE_MOVABLE, no where there is no zone, else maybe, all of it assumed', () => {
    const world: SyntheticWorld = {
      blocks: [{ id: 32 }, { id: 33, zone: 'Movable' }, { id: 34, validZones: [] }],
      frames: [[pfnOf(32), 16 * 512, WORD.slab]],
      hide: ['/proc/kpageflags'],
    };
    const twin = twinOf(world);
    const normal = verdictOf(twin, 32);
    expect(short(normal)).toBe('maybe - zone-only');
    expect(normal.reason).toContain('of which 13 % of the pageblocks are not Movable');
    expect(normal.provenance).toBe('assumed');
    expect(short(verdictOf(twin, 33))).toBe('yes - zone-only');
    expect(short(verdictOf(twin, 34))).toBe('no EINVAL multizone');
    expect(verdictOf(twinOf({ ...world, hide: ['/proc/kpageflags', '/proc/pagetypeinfo'] })).reason).toContain(
      'nothing is known',
    );
  });

  it('V18 every code was seen above', () => {
    const all: Record<VerdictCode, true> = {
      'all-free': true,
      migrates: true,
      unmovable: true,
      hole: true,
      multizone: true,
      offline: true,
      'going-offline': true,
      deferred: true,
      'no-target': true,
      stuck: true,
      'pin-sign': true,
      unflagged: true,
      gigantic: true,
      'zone-only': true,
    };
    expect([...seen].sort()).toEqual(Object.keys(all).sort());
  });
});

describe('judging', () => {
  const count = (twin: Twin): Record<string, number> => {
    const out: Record<string, number> = {};
    for (const v of judgeAll(twin)) out[short(v)] = (out[short(v)] ?? 0) + 1;
    return out;
  };

  it('V19 leaves the twin as it was, and one verdict does not depend on those before it', () => {
    const twin = golden('guest-6.1-mixed.dimmer');
    if (twin.level !== 'pages') throw new Error('no pages');
    const before = twin.machine.digest();
    const all = judgeAll(twin);
    expect(twin.machine.digest()).toBe(before);
    for (const v of all.toReversed()) expect(new Judge(twin).judge(v.block)).toEqual(v);
  });

  it('V20 real machines: what was said of each block when this was written', () => {
    expect(count(golden('guest-6.1-pinned.dimmer'))).toEqual({
      'no EINVAL hole': 2,
      'yes - all-free': 17,
      'no EBUSY unmovable': 4,
      'maybe EINTR pin-sign': 1, // block 32, which looped until the pipe's owner was killed
    });
    expect(count(golden('guest-6.12-memmap-on-memory.dimmer'))).toEqual({
      'no EINVAL hole': 2,
      'yes - all-free': 33,
      'yes - migrates': 2,
      'no EBUSY unmovable': 3,
    });
    const host = count(golden('host-6.18.dimmer'));
    expect(host['maybe - deferred']).toBe(130);
    expect(host['no EINVAL hole']).toBe(1);
  });

  it('V21 pageblock types do not change a verdict', () => {
    for (const name of ['guest-6.1-mixed.dimmer', 'guest-6.1-movablecore.dimmer']) {
      const twin = golden(name);
      const quick = buildTwin(twin.capture, { types: 'contents' });
      expect(quick.ok && judgeAll(quick.value).map(short)).toEqual(judgeAll(twin).map(short));
    }
  });
});
