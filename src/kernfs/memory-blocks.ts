// /sys/devices/system/memory: the memory blocks, the unit of online and offline.
//
//   block_size_bytes     "8000000\n"    hexadecimal without 0x
//   auto_online_blocks   "offline\n"    what happens to blocks as they are added
//   memory32/state        "offline\n"          online | offline | going-offline
//   memory32/valid_zones  "Normal Movable\n"   offline: the zones it may go to, default first; online: its zone;
//                                              "none" where it lies in several zones or nodes
//   memory32/phys_index   "00000020\n"  the block's id again, 8 hexadecimal digits
//   memory32/removable    "1\n"         always 1 on kernels with hot-remove: it predicts nothing
//   memory32/phys_device  "0\n"         0 except on s390
//   memory32/node1        a link: the node (or nodes) that the block belongs to
//
// Invariant, checked: phys_index names the directory's own number. Absent on some kernels and tolerated: valid_zones,
// removable, phys_device, phys_index, auto_online_blocks. Blocks come back sorted by id: a directory's own order
// means nothing. Spec 1.2, 1.7, 1.10; follows Linux v6.12 drivers/base/memory.c.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { BlockId, NodeId } from '#base/units';
import { toBlockId, toNodeId } from '#base/units';
import type { KernfsProblem, KernTree } from './source.ts';
import { numberIn, oneOf, readAttribute } from './sysfs.ts';
import { MAX_NODES, problem, readCount } from './text.ts';

/** The three states the kernel can print; other words come from plain trees that took a write as a file does. */
export type BlockState = 'online' | 'offline' | 'going-offline' | (string & {});

export type MemoryBlock = {
  readonly id: BlockId;
  readonly state: BlockState;
  /** As printed: ["Normal", "Movable"]; [] for "none"; absent where the kernel has no such file. */
  readonly validZones?: readonly string[];
  readonly removable?: boolean;
  readonly physDevice?: number;
  /** Ascending; [] without NUMA. */
  readonly nodes: readonly NodeId[];
};

const AUTO_ONLINE_WORDS = ['offline', 'online', 'online_kernel', 'online_movable'] as const;
export type AutoOnlineBlocks = (typeof AUTO_ONLINE_WORDS)[number];

export type MemoryBlocks = {
  readonly blockSizeBytes: number;
  readonly autoOnlineBlocks?: AutoOnlineBlocks;
  /** Ascending by id. */
  readonly blocks: readonly MemoryBlock[];
};

export const MEMORY_DIR = '/sys/devices/system/memory';

const MIN_BLOCK_SIZE = 2 ** 20;
const MAX_BLOCK_SIZE = 2 ** 40;

/**
 * All blocks. Refused when there is no such directory (a kernel without memory hotplug), when a block has no readable
 * state (it was removed while the directory was read: read again) and when a value makes no sense.
 * Cost: five small files a block.
 */
export function readMemoryBlocks(tree: KernTree): Result<MemoryBlocks, KernfsProblem> {
  const names = tree.list(MEMORY_DIR);
  if (names.length === 0)
    return problem(MEMORY_DIR, 0, 'there are no memory blocks: no CONFIG_MEMORY_HOTPLUG, or no sysfs');
  const size = readAttribute(tree, `${MEMORY_DIR}/block_size_bytes`, {
    expected: 'a power of two in hexadecimal without 0x',
    read: readBlockSize,
  });
  if (!size.ok) return size;
  if (size.value === undefined) return problem(`${MEMORY_DIR}/block_size_bytes`, 0, 'the file is absent');
  const auto = readAttribute(tree, `${MEMORY_DIR}/auto_online_blocks`, {
    expected: AUTO_ONLINE_WORDS.join(', '),
    read: oneOf(AUTO_ONLINE_WORDS),
  });
  if (!auto.ok) return auto;
  const blocks: MemoryBlock[] = [];
  for (const name of names) {
    const id = numberIn(name, 'memory');
    if (id === undefined) continue;
    const block = readMemoryBlock(tree, toBlockId(id));
    if (!block.ok) return block;
    blocks.push(block.value);
  }
  blocks.sort((a, b) => a.id - b.id);
  const autoOnline = auto.value === undefined ? {} : { autoOnlineBlocks: auto.value };
  return ok({ blockSizeBytes: size.value, ...autoOnline, blocks });
}

/** One block's directory; the refusals of readMemoryBlocks. */
export function readMemoryBlock(tree: KernTree, id: BlockId): Result<MemoryBlock, KernfsProblem> {
  const dir = `${MEMORY_DIR}/${blockName(id)}`;
  const state = readAttribute(tree, `${dir}/state`, { expected: 'a state', read: readWord });
  if (!state.ok) return state;
  if (state.value === undefined)
    return problem(`${dir}/state`, 0, 'the state could not be read: was the block removed?');
  const physIndex = readAttribute(tree, `${dir}/phys_index`, {
    expected: `${printPhysIndex(id).trim()}, the number of this block`,
    read: (line) => (/^[0-9a-f]{8,}$/.test(line) && Number.parseInt(line, 16) === id ? line : undefined),
  });
  if (!physIndex.ok) return physIndex;
  const zones = readAttribute(tree, `${dir}/valid_zones`, { expected: 'zone names or none', read: readValidZones });
  if (!zones.ok) return zones;
  const removable = readAttribute(tree, `${dir}/removable`, { expected: '0 or 1', read: oneOf(['0', '1']) });
  if (!removable.ok) return removable;
  const device = readAttribute(tree, `${dir}/phys_device`, { expected: 'a number', read: readCount });
  if (!device.ok) return device;
  const nodes: NodeId[] = [];
  for (const name of tree.list(dir)) {
    const node = numberIn(name, 'node');
    if (node !== undefined && node < MAX_NODES) nodes.push(toNodeId(node));
  }
  nodes.sort((a, b) => a - b);
  return ok({
    id,
    state: state.value,
    ...(zones.value === undefined ? {} : { validZones: zones.value }),
    ...(removable.value === undefined ? {} : { removable: removable.value === '1' }),
    ...(device.value === undefined ? {} : { physDevice: device.value }),
    nodes,
  });
}

/** "memory32". */
export const blockName = (id: BlockId): string => `memory${id}`;

// The exact text of each file, newline included.
export const printBlockSizeBytes = (bytes: number): string => `${bytes.toString(16)}\n`;
export const printAutoOnlineBlocks = (word: AutoOnlineBlocks): string => `${word}\n`;
export const printState = (state: BlockState): string => `${state}\n`;
export const printValidZones = (zones: readonly string[]): string => `${zones.join(' ') || 'none'}\n`;
export const printPhysIndex = (id: BlockId): string => `${id.toString(16).padStart(8, '0')}\n`;
export const printRemovable = (removable: boolean): string => (removable ? '1\n' : '0\n');
export const printPhysDevice = (device: number): string => `${device}\n`;

/** The block's files as the kernel has them: name -> text; `undefined` marks the links to its nodes. */
export function printMemoryBlock(block: MemoryBlock): ReadonlyMap<string, string | undefined> {
  const files = new Map<string, string | undefined>();
  files.set('phys_index', printPhysIndex(block.id));
  files.set('state', printState(block.state));
  if (block.validZones !== undefined) files.set('valid_zones', printValidZones(block.validZones));
  if (block.removable !== undefined) files.set('removable', printRemovable(block.removable));
  if (block.physDevice !== undefined) files.set('phys_device', printPhysDevice(block.physDevice));
  for (const node of block.nodes) files.set(`node${node}`, undefined);
  return files;
}

function readBlockSize(line: string): number | undefined {
  if (!/^[0-9a-f]{1,12}$/.test(line)) return undefined;
  const bytes = Number.parseInt(line, 16);
  return bytes >= MIN_BLOCK_SIZE && bytes <= MAX_BLOCK_SIZE && Number.isInteger(Math.log2(bytes)) ? bytes : undefined;
}

const readWord = (line: string): string | undefined => (/^[a-z][a-z_-]*$/.test(line) ? line : undefined);

// A kernel prints "none"; its documentation and old tools say "None".
function readValidZones(line: string): readonly string[] | undefined {
  if (line === 'none' || line === 'None') return [];
  return /^[A-Z][A-Za-z0-9]*(?: [A-Z][A-Za-z0-9]*)*$/.test(line) ? line.split(' ') : undefined;
}
