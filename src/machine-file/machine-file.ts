// Machine file: a computer as YAML (docs/formats/machine.md), read into what Machine.boot wants.
//
//   text ──readYaml──> fields ──> nodes, RAM, reserved ranges ──checked against each other──> MachineSpec
//                                 DIMMs to be added after boot ──────────────────────────────> DimmPlan[]
//                                 pools to be made after boot ───────────────────────────────> PoolPlan[] (pool-plan.ts)
//
// Addresses are bytes here and frames there: RAM loses the parts of frames at its ends, as in the kernel; a reserved range
// keeps every frame it touches. RAM given by size alone is laid out as QEMU's q35 machine does it:
//
//   0   4K     640K 1M                 2G or all          4G
//   │gap│ RAM  │gap │ RAM ........... │       gap        │ RAM ......   node after node
//
// What a boot would throw on (ranges that overlap, reserved ranges outside of the RAM) is refused here, with its line.

import { formatSize, hex } from '#base/format';
import type { Result } from '#base/result';
import { parseList } from '#kernfs/list-format';
import type { Srat } from '#kernfs/srat';
import {
  KERNEL_NAMES,
  type MachineSpec,
  memoryBlockSize,
  type NodeId,
  PAGE_SIZE,
  type RamRange,
  type ReservedRange,
  toNodeId,
  toPfn,
} from '#mm/index';
import { obeyed } from '#mm/machine-spec';
import { type PoolPlan, readPools } from './pool-plan.ts';
import { type ByteRange, type SratSpec, sratToSpec } from './srat-ram.ts';
import { type Field, type MachineFileProblem, readYaml } from './yaml-fields.ts';

export type { MachineFileProblem };

export const DIMM_ONLINE = ['auto', 'offline', 'online', 'kernel', 'movable'] as const;
export type DimmOnline = (typeof DIMM_ONLINE)[number];

/** A DIMM to be added after boot. */
export type DimmPlan = {
  /** Bytes. */
  readonly size: number;
  readonly node: NodeId;
  /** What becomes of its blocks; 'auto': what memhp_default_state says. */
  readonly online: DimmOnline;
  /** Address in bytes; undefined: the first that is free and aligned. */
  readonly start?: number;
};

export type MachineFile = {
  readonly name?: string;
  readonly spec: MachineSpec;
  readonly dimms: readonly DimmPlan[];
  readonly pools: readonly PoolPlan[];
  /** What of the firmware's table was not believed. */
  readonly notes: readonly string[];
};

export type MachineFileOptions = {
  /** The firmware's table: says which node the ranges under `ram` belong to. */
  readonly srat?: Srat;
};

const ROOT = [
  'name',
  'kernel',
  'compat',
  'cmdline',
  'hypervisor',
  'block-size',
  'cpus',
  'ram',
  'nodes',
  'possible-nodes',
  'reserved',
  'dimms',
  'placement',
  'pools',
] as const;
const NODE = ['id', 'cpus', 'ram', 'distance'] as const;
const RAM = ['start', 'end', 'size', 'hotpluggable', 'mirrored'] as const;
const RESERVED = ['start', 'end', 'size', 'name'] as const;
const DIMM = ['size', 'node', 'online', 'start'] as const;
const COMPAT = ['linux', 'strict'] as const;
const PLACEMENTS = ['address', 'fullest', 'lifo'] as const;
const MAX_NODE = 1023;
const MAX_CPUS = 8192;
const MAX_NODES = 64;

/** RAM of one node as the file says it: ranges with their fields, or a size. */
type NodeRam =
  | { readonly ranges: readonly (RamRange & { readonly field: Field })[] }
  | { readonly bytes: number; readonly field: Field };
type NodeEntry = {
  readonly id: NodeId;
  readonly field: Field;
  readonly cpus: readonly number[];
  readonly ram: NodeRam | undefined;
  readonly distance: readonly number[] | undefined;
};

/**
 * Reads a machine file.
 *
 * @returns a spec that Machine.boot takes; or one sentence with the line and the field
 */
export function parseMachineFile(
  text: string,
  options: MachineFileOptions = {},
): Result<MachineFile, MachineFileProblem> {
  return readYaml(text, (root) => read(root, options));
}

function read(root: Field, { srat }: MachineFileOptions): MachineFile {
  const fields = root.map(ROOT);
  const nodesField = fields.get('nodes');
  const ramField = fields.get('ram');
  if (nodesField === undefined && ramField === undefined)
    root.refuse('a machine needs RAM: give ram, or nodes with ram');
  if (nodesField !== undefined && ramField !== undefined)
    ramField.refuse('nodes are given: say the RAM of each node there');
  const firmware = ramField === undefined ? undefined : readFlatRam(ramField, srat);
  if (srat !== undefined && firmware === undefined)
    nodesField?.refuse('the firmware’s table says which nodes there are: give the ranges under ram instead');
  const nodes = nodesField === undefined ? [] : readNodes(nodesField);
  const ram = firmware?.ram ?? layOutNodes(nodes);
  const reservedField = fields.get('reserved');
  const reserved = reservedField === undefined ? [] : readReserved(reservedField, ram);
  const blockSize = fields.get('block-size');
  if (blockSize !== undefined && !memoryBlockSize(0, { hypervisor: true, override: blockSize.size() }).ok)
    blockSize.refuse('a memory block is a power of two from 128M to 64G');
  const masks = new Map(nodes.filter((n) => n.cpus.length > 0).map((n) => [n.id, n.cpus]));
  const cpuMask = firmware === undefined ? masks : firmware.cpuMask;
  const possible = [
    ...new Set([
      ...nodes.map((n) => n.id),
      ...(firmware?.possibleNodes ?? []),
      ...listOf(fields.get('possible-nodes'), MAX_NODE),
    ]),
  ];
  const name = fields.get('name')?.text();
  const spec: MachineSpec = {
    ram,
    possibleNodes: possible.map((n) => toNodeId(n)).sort((a, b) => a - b),
    ...(reserved.length === 0 ? {} : { reserved }),
    ...(cpuMask.size === 0 ? {} : { cpuMask }),
    ...optional('kernel', fields.get('kernel')?.oneOf(KERNEL_NAMES)),
    ...optional('compat', fields.get('compat')?.oneOf(COMPAT)),
    ...optional('cmdline', fields.get('cmdline')?.text()),
    ...optional('hypervisor', fields.get('hypervisor')?.flag()),
    ...optional('blockSize', blockSize?.size()),
    ...optional('cpus', fields.get('cpus')?.count(1, MAX_CPUS)),
    ...optional('placement', fields.get('placement')?.oneOf(PLACEMENTS)),
    ...optional('distance', distances(nodes, cpuMask, ram)),
  };
  if (obeyed(spec).ram.length === 0) fields.get('cmdline')?.refuse('mem= leaves no RAM at all');
  const dimms =
    fields
      .get('dimms')
      ?.list()
      .map((d) => readDimm(d, possible)) ?? [];
  const poolsField = fields.get('pools');
  const pools = poolsField === undefined ? [] : readPools(poolsField);
  return { ...optional('name', name), spec, dimms, pools, notes: firmware?.notes ?? [] };
}

const optional = <K extends string, V>(key: K, value: V | undefined): { readonly [P in K]?: V } =>
  value === undefined ? {} : ({ [key]: value } as { readonly [P in K]?: V }); // one key, the one asked for

/** "0-3,8", or one number; [] when it is not given. */
function listOf(field: Field | undefined, most: number): number[] {
  if (field === undefined) return [];
  const list = parseList(field.word());
  if (!list.ok) return field.refuse(`${list.error.reason}; write them as 0-3,8`);
  const last = list.value.at(-1) ?? 0;
  return last <= most ? list.value : field.refuse(`${last} is too many: ${most} is the last there can be`);
}

// --------------------------------------------------------------------------------------------------------------- nodes

function readNodes(field: Field): NodeEntry[] {
  const out: NodeEntry[] = [];
  const cpuOf = new Map<number, NodeId>();
  for (const item of field.list()) {
    const fields = item.map(NODE);
    const idField = fields.get('id');
    const id = toNodeId(idField === undefined ? out.length : idField.count(0, MAX_NODE));
    if (out.some((n) => n.id === id)) (idField ?? item).refuse(`there is a node ${id} already`);
    const cpus = listOf(fields.get('cpus'), MAX_CPUS - 1);
    for (const c of cpus) {
      const other = cpuOf.get(c);
      if (other !== undefined) fields.get('cpus')?.refuse(`CPU ${c} is on node ${other} already`);
      cpuOf.set(c, id);
    }
    const ram = fields.get('ram');
    const distance = fields
      .get('distance')
      ?.list()
      .map((d) => d.count(10, 255));
    out.push({ id, field: item, cpus, ram: ram === undefined ? undefined : readNodeRam(ram, id), distance });
  }
  if (out.length === 0) field.refuse('a machine has at least one node');
  if (out.length > MAX_NODES) field.refuse(`${out.length} nodes: ${MAX_NODES} are the most`);
  return out.sort((a, b) => a.id - b.id);
}

function readNodeRam(field: Field, node: NodeId): NodeRam {
  if (!field.isList) return { bytes: field.size(), field };
  return { ranges: field.list().map((item) => ({ ...framesOf(readRange(item, RAM), item, node), field: item })) };
}

type Range = ByteRange & { readonly hotpluggable?: boolean; readonly fields: ReadonlyMap<string, Field> };

/** {start, end} or {start, size}: end is the first byte behind. */
function readRange(item: Field, names: readonly string[]): Range {
  const fields = item.map(names);
  const start = fields.get('start')?.address() ?? item.refuse('start is missing');
  const endField = fields.get('end');
  const sizeField = fields.get('size');
  if (endField !== undefined && sizeField !== undefined) sizeField.refuse('give end or size, not both');
  const end = endField?.address() ?? start + (sizeField?.size() ?? item.refuse('end or size is missing'));
  if (end <= start) (endField ?? item).refuse(`the end, 0x${hex(end)}, is not behind the start, 0x${hex(start)}`);
  if (end > 2 ** 52) item.refuse('an address has at most 52 bits');
  return {
    start,
    end,
    fields,
    ...optional('hotpluggable', fields.get('hotpluggable')?.flag()),
    ...optional('mirrored', fields.get('mirrored')?.flag()),
  };
}

function framesOf(r: Range, item: Field, node: NodeId): RamRange {
  const start = Math.ceil(r.start / PAGE_SIZE);
  const end = Math.floor(r.end / PAGE_SIZE);
  if (start >= end) item.refuse('the range holds no whole frame of 4 KiB');
  return {
    start: toPfn(start),
    end: toPfn(end),
    node,
    ...(r.hotpluggable === true ? { hotpluggable: true } : {}),
    ...(r.mirrored === true ? { mirrored: true } : {}),
  };
}

/** All nodes by ranges, or all by size. */
function layOutNodes(nodes: readonly NodeEntry[]): RamRange[] {
  const withRam = nodes.flatMap((n) => (n.ram === undefined ? [] : [{ id: n.id, ram: n.ram }]));
  const bySize = withRam.flatMap((n) => ('bytes' in n.ram ? [{ id: n.id, ...n.ram }] : []));
  if (bySize.length > 0) {
    const other = withRam.find((n) => !('bytes' in n.ram));
    if (other !== undefined)
      bySize[0]?.field.refuse(`node ${other.id} gives ranges: give ranges here too, or sizes everywhere`);
    return layOutSizes(bySize);
  }
  const ranges = withRam.flatMap((n) => ('ranges' in n.ram ? n.ram.ranges : []));
  if (ranges.length === 0) (nodes[0] as NodeEntry).field.refuse('no node has RAM');
  return checkedRanges(ranges);
}

function checkedRanges(ranges: readonly (RamRange & { readonly field: Field })[]): RamRange[] {
  const sorted = [...ranges].sort((a, b) => a.start - b.start);
  sorted.forEach((r, k) => {
    const before = sorted[k - 1];
    if (before !== undefined && before.end > r.start)
      r.field.refuse(`overlaps the range of line ${before.field.line}, at 0x${hex(r.start * PAGE_SIZE)}`);
  });
  return sorted.map(({ field: _field, ...range }) => range);
}

const GIB = 2 ** 30;
/** hw/i386/pc_q35.c: from this much on, RAM below 4 GiB ends at 2 GiB. */
const Q35_SPLIT = 0xb0000000;

function layOutSizes(
  nodes: readonly { readonly id: NodeId; readonly bytes: number; readonly field: Field }[],
): RamRange[] {
  const total = nodes.reduce((n, x) => n + x.bytes, 0);
  const lowEnd = total >= Q35_SPLIT ? 2 * GIB : 4 * GIB;
  const out: RamRange[] = [];
  let given = 0; // bytes of RAM so far, counted from address 0, gap of the first MiB included
  for (const { id, bytes, field } of nodes) {
    const [from, to] = [given, given + bytes];
    given = to;
    const above = (n: number): number => 4 * GIB + n - lowEnd;
    const pieces = [
      [Math.max(from, PAGE_SIZE), Math.min(to, 0xa0000 - PAGE_SIZE)], // the last one below 640 KiB is the firmware's
      [Math.max(from, 0x100000), Math.min(to, lowEnd)],
      [above(Math.max(from, lowEnd)), above(to)],
    ] as const;
    const whole = pieces.filter(([a, b]) => Math.ceil(a / PAGE_SIZE) < Math.floor(b / PAGE_SIZE));
    if (whole.length === 0) field.refuse(`${formatSize(bytes)} are too little for a node`);
    for (const [start, end] of whole) out.push(framesOf({ start, end, fields: new Map() }, field, id));
  }
  return out;
}

/** RAM without nodes: the firmware's table says which node, else node 0. */
function readFlatRam(field: Field, srat: Srat | undefined): SratSpec {
  if (!field.isList) {
    if (srat !== undefined) field.refuse('the firmware’s table needs ranges here, not a size');
    const ram = layOutSizes([{ id: toNodeId(0), bytes: field.size(), field }]);
    return { ram, possibleNodes: [toNodeId(0)], cpuMask: new Map(), hotplug: [], notes: [] };
  }
  const ranges = field.list().map((item) => ({ item, range: readRange(item, RAM) }));
  if (ranges.length === 0) field.refuse('a machine needs RAM');
  const frames = ranges.map(({ item, range }) => ({ ...framesOf(range, item, toNodeId(0)), field: item }));
  const ram = checkedRanges(frames);
  if (srat === undefined) return { ram, possibleNodes: [toNodeId(0)], cpuMask: new Map(), hotplug: [], notes: [] };
  for (const { range } of ranges)
    range.fields.get('hotpluggable')?.refuse('the firmware’s table says what is hot-pluggable');
  return sratToSpec(
    srat,
    ranges.map(({ range }) => range),
  );
}

/** By online nodes in ascending id, as the zonelists of a boot want it. */
function distances(
  nodes: readonly NodeEntry[],
  cpuMask: ReadonlyMap<NodeId, readonly number[]>,
  ram: readonly RamRange[],
): number[][] | undefined {
  const given = nodes.filter((n) => n.distance !== undefined);
  if (given.length === 0) return undefined;
  const online = nodes.map((n) => cpuMask.has(n.id) || ram.some((r) => r.node === n.id));
  const rows = nodes.map((n, k) => {
    const { distance } = n;
    if (distance === undefined) return n.field.refuse('the other nodes have a distance: give it here too');
    if (distance.length !== nodes.length)
      return n.field.refuse(`distance has ${distance.length} numbers for ${nodes.length} nodes`);
    if (distance[k] !== 10) n.field.refuse('the distance of a node to itself is 10');
    return distance.filter((_, j) => online[j]);
  });
  return rows.filter((_, k) => online[k]);
}

// --------------------------------------------------------------------------------------------- reserved ranges and DIMMs

function readReserved(field: Field, ram: readonly RamRange[]): ReservedRange[] {
  const out: { start: number; end: number; name: string; field: Field }[] = [];
  for (const item of field.list()) {
    const r = readRange(item, RESERVED);
    const start = Math.floor(r.start / PAGE_SIZE);
    const end = Math.ceil(r.end / PAGE_SIZE);
    const inRam = ram.reduce((n, z) => n + Math.max(0, Math.min(end, z.end) - Math.max(start, z.start)), 0);
    if (inRam !== end - start) item.refuse('the range is not RAM throughout: only RAM can be reserved');
    const other = out.find((o) => o.start < end && start < o.end);
    if (other !== undefined) item.refuse(`overlaps the range of line ${other.field.line}`);
    out.push({ start, end, name: r.fields.get('name')?.text() ?? 'reserved', field: item });
  }
  return out.map((r) => ({ start: toPfn(r.start), end: toPfn(r.end), name: r.name }));
}

function readDimm(item: Field, possible: readonly number[]): DimmPlan {
  const fields = item.map(DIMM);
  const size = fields.get('size')?.size() ?? item.refuse('size is missing');
  const nodeField = fields.get('node');
  const node = nodeField?.count(0, MAX_NODE) ?? 0;
  if (!possible.includes(node))
    (nodeField ?? item).refuse(`there is no node ${node}; name it under nodes or possible-nodes`);
  return {
    size,
    node: toNodeId(node),
    online: fields.get('online')?.oneOf(DIMM_ONLINE) ?? 'auto',
    ...optional('start', fields.get('start')?.address()),
  };
}
