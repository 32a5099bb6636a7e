// doctor, blocks: doors that go one way, blocks that are on their way for ever, poisoned frames.
//
//   hot-added range, a block of it online in a kernel zone
//      verdict no    one-way-door: it cannot be taken back; which pages keep it
//      otherwise     door-still-open: it could be taken back now, and not for long (a second later a kernel page may sit in it)
//   state going-offline                          somebody's write does not end (lab: for ever, until a signal)
//   KPF_HWPOISON in kpageflags                   poisoned: frames, and the range they are on
//   HardwareCorrupted > 0 and no such flag       remembered only: the flag goes when a block is onlined again
//   memmap_on_memory set, no block of its own    idle: up to 6.7 only a range of exactly one block gets it; virtio-mem never
//
// Source: lab facts 5, 12, 14, 19; Linux v6.12 mm/memory_hotplug.c: mhp_supports_memmap_on_memory(); spec 3.5, 4.3.

import { forEachRun } from '#capture/page-runs';
import { hasFlag, KPF } from '#kernfs/kpageflags';
import { readMemhpParams } from '#kernfs/memhp-params';
import { meminfoKb, parseMeminfo } from '#kernfs/meminfo';
import { PAGE_SIZE, toBlockId } from '#mm/index';
import { type BlockVerdict, explain, type Twin } from '#twin/index';
import type { Finding } from './doctor.ts';
import type { AddedRange } from './hot-added.ts';
import { CLASS_WORDS } from './reason.ts';
import { sayIds } from './target.ts';

export function blockFindings(
  twin: Twin,
  added: readonly AddedRange[],
  verdicts: readonly BlockVerdict[],
): readonly Finding[] {
  return [...stuckBlocks(twin), ...poisoned(twin, added), ...doors(twin, added, verdicts), ...idleMemmap(twin, added)];
}

const STATE = (id: number | string): string => `/sys/devices/system/memory/memory${id}/state`;

function stuckBlocks(twin: Twin): Finding[] {
  const stuck = twin.blocks.filter((b) => b.state === 'going-offline').map((b): number => b.id);
  if (stuck.length === 0) return [];
  return [
    {
      code: 'going-offline',
      severity: 'bad',
      sentence: `${blocks(stuck)} ${stuck.length === 1 ? 'is' : 'are'} going offline and not done; every other online and offline waits behind that`,
      evidence: [`state of ${blocks(stuck)} reads going-offline`],
      fix: [
        `dimmer explain block:${stuck[0]}    # what does not move`,
        `fuser -v ${STATE(stuck[0] as number)}    # who writes: end it with Ctrl-C or kill -INT, nothing is lost by that`,
        'nobody writes: an unplug from the hypervisor started it, and no signal reaches that: let go of what holds the pages',
      ],
      provenance: 'measured',
    },
  ];
}

function doors(twin: Twin, added: readonly AddedRange[], verdicts: readonly BlockVerdict[]): Finding[] {
  const byId = new Map<number, BlockVerdict>(verdicts.map((v) => [v.block, v]));
  const out: Finding[] = [];
  for (const range of added) {
    const kernel = twin.blocks.filter(
      (b) =>
        range.blocks.includes(b.id) &&
        b.state === 'online' &&
        b.validZones?.length === 1 &&
        b.validZones[0] !== 'Movable',
    );
    const stay = kernel.filter((b) => byId.get(b.id)?.verdict === 'no').map((b): number => b.id);
    const open = kernel.map((b): number => b.id).filter((id) => !stay.includes(id));
    if (stay.length > 0) {
      const whole = `${stay.length} of its ${blockCount(range.blocks.length)}`;
      out.push({
        code: 'one-way-door',
        severity: 'warn',
        sentence: `${range.name} cannot be taken back: ${whole} went to a kernel zone and will not go offline`,
        evidence: [
          `${blocks(stay)}, zone ${zonesOf(twin, stay)}`,
          ...holders(stay.flatMap((id) => byId.get(id) ?? [])),
        ],
        fix: [
          `dimmer explain block:${stay[0]}    # whose pages they are, and what frees them`,
          'next time, before it is added: echo online_movable > /sys/devices/system/memory/auto_online_blocks',
        ],
        provenance: range.provenance,
      });
    }
    if (open.length > 0) {
      const [first] = open as [number];
      const maybe = open.filter((id) => byId.get(id)?.verdict !== 'yes').length;
      const sure = maybe === 0 ? '' : ` (${maybe} of them perhaps)`;
      out.push({
        code: 'door-still-open',
        severity: 'warn',
        sentence: `${range.name} has ${blockCount(open.length)} in a kernel zone that could still go offline${sure}; the kernel's next page there may end that`,
        evidence: [`${blocks(open)}, zone ${zonesOf(twin, open)}`],
        fix: [
          `for b in ${shellIds(open)}; do echo offline > ${STATE('$b')} && echo online_movable > ${STATE('$b')}; done`,
          ...(open.length > 1
            ? [`or one alone: block ${first}; dimmer check block:${first} says what would move`]
            : []),
        ],
        provenance: range.provenance,
      });
    }
  }
  return out;
}

/** "slab 212 pages: slab, 9 pageblocks"; three groups at most. */
function holders(verdicts: readonly BlockVerdict[]): string[] {
  return explain(verdicts)
    .slice(0, 3)
    .map((g) => {
      const who = g.cgroup === undefined ? g.name : `${g.name}, cgroup ${g.cgroup}`;
      return `${CLASS_WORDS[g.class]}: ${g.pages} page${g.pages === 1 ? '' : 's'} (${who})`;
    });
}

type PoisonedFrames = { readonly pages: number; readonly runs: readonly { start: number; end: number }[] };

/** Frames with KPF_HWPOISON; undefined without page flags. */
function poisonedFrames(twin: Twin): PoisonedFrames | undefined {
  const flags = twin.capture.kpageflags;
  if (flags === undefined) return undefined;
  const bad = Array.from(flags.lo, (lo, k) => hasFlag(lo, flags.hi[k] as number, KPF.HWPOISON));
  const runs: { start: number; end: number }[] = [];
  if (bad.includes(true))
    forEachRun(flags, 0, flags.endPfn, (start, end, word) => {
      if (bad[word] === true) runs.push({ start, end });
    });
  return { pages: runs.reduce((n, r) => n + r.end - r.start, 0), runs };
}

function poisoned(twin: Twin, added: readonly AddedRange[]): Finding[] {
  const meminfo = parseMeminfo(twin.capture.tree.readText('/proc/meminfo') ?? '');
  const corruptedKb = (meminfo.ok ? meminfoKb(meminfo.value, 'HardwareCorrupted') : undefined) ?? 0;
  const frames = poisonedFrames(twin);
  if (frames === undefined || frames.pages === 0) {
    if (corruptedKb === 0) return [];
    return [
      {
        code: 'poison-remembered',
        severity: 'warn',
        sentence: `the kernel counts ${corruptedKb} kB of broken memory${frames === undefined ? '' : ', and no frame is flagged any more: a block of it was onlined again and is in use'}`,
        evidence: [`HardwareCorrupted: ${corruptedKb} kB in /proc/meminfo`],
        fix: ['the log names the addresses: journalctl -k | grep -iE "memory failure|soft offline"'],
        provenance: 'measured',
      },
    ];
  }
  const ids = [...new Set(frames.runs.flatMap((r) => blocksBetween(r.start, r.end, twin.blockPages)))];
  const ranges = added.filter((a) => a.blocks.some((id) => ids.includes(id)));
  const first = frames.runs[0] as { start: number };
  const where = ranges.length === 0 ? blocks(ids) : `${ranges.map((r) => r.name).join(', ')} (${blocks(ids)})`;
  return [
    {
      code: 'poisoned',
      severity: 'bad',
      sentence: `${frames.pages} frame${frames.pages === 1 ? ' is' : 's are'} poisoned: broken memory on ${where}`,
      evidence: [
        `first at 0x${(first.start * PAGE_SIZE).toString(16)}; HardwareCorrupted: ${corruptedKb} kB in /proc/meminfo`,
      ],
      fix: [
        `dimmer check ${ranges[0] === undefined ? `block:${sayRange(ids)}` : `block:${sayRange(ranges[0].blocks)}`}    # can all of it go offline?`,
        'a boot DIMM, or interleaved memory: it can only be replaced with the machine off',
      ],
      provenance: 'measured',
    },
  ];
}

/**
 * Set, and no block that is there keeps its own memory map. Only where frames were seen, and where something was added that
 * could have had it.
 */
function idleMemmap(twin: Twin, added: readonly AddedRange[]): Finding[] {
  const params = readMemhpParams(twin.capture.tree);
  const word = params.ok ? params.value.memmapOnMemory : undefined;
  if (word === undefined || word === 'N' || twin.level === 'counters') return [];
  const { blocks: table } = twin.machine;
  const dimms = added.filter((r) => !/virtio.mem/.test(r.name));
  const onlineIn = (r: AddedRange): number[] =>
    r.blocks.filter((id) => twin.blocks.some((b) => b.id === id && b.state === 'online'));
  const without = dimms.filter((r) => {
    const online = onlineIn(r);
    return (
      online.length > 0 &&
      online.every((id) => {
        const row = table.rowOf(toBlockId(id));
        return row >= 0 && table.vmemmapPages[row] === 0;
      })
    );
  });
  if (without.length === 0) return [];
  return [
    {
      code: 'memmap-on-memory-idle',
      severity: 'warn',
      sentence: `memmap_on_memory is ${word} and has no effect on ${without.map((r) => r.name).join(', ')}: its memory map took 1/64 of its size from other memory`,
      evidence: [
        `kernel ${twin.kernel}; /sys/module/memory_hotplug/parameters/memmap_on_memory reads ${word}, and the kernel says nothing when it falls back`,
      ],
      fix: ['a kernel of 6.8 or later, which does it block by block; or DIMMs of exactly one memory block'],
      provenance: 'derived',
    },
  ];
}

function blocksBetween(startPfn: number, endPfn: number, blockPages: number): number[] {
  const first = Math.floor(startPfn / blockPages);
  const end = Math.ceil(endPfn / blockPages);
  return Array.from({ length: end - first }, (_, k) => first + k);
}

const zonesOf = (twin: Twin, ids: readonly number[]): string =>
  [...new Set(twin.blocks.filter((b) => ids.includes(b.id)).flatMap((b) => b.validZones ?? []))].join(', ');

/** For a shell's `for`: [33, 35, 36, 37] -> "33 $(seq 35 37)". */
const shellIds = (ids: readonly number[]): string =>
  sayIds(ids)
    .split(',')
    .map((run) => run.replace(/^(\d+)-(\d+)$/, '$(seq $1 $2)'))
    .join(' ');
const blockCount = (n: number): string => `${n} block${n === 1 ? '' : 's'}`;
const sayRange = (ids: readonly number[]): string => {
  const [first, last] = [ids[0] as number, ids[ids.length - 1] as number];
  return first === last ? `${first}` : `${first}-${last}`;
};
/** "block 32", "blocks 32-35, 40". */
const blocks = (ids: readonly number[]): string => `block${ids.length === 1 ? '' : 's'} ${sayIds(ids)}`;
