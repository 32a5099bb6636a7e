// Lab snapshots: folders that keep a machine's kernel files flat, presented with the paths of the live machine.
//
//   folder                               live path
//   buddyinfo, zoneinfo, iomem, ...      /proc/...
//   memory/blocks.txt, one row a block   /sys/devices/system/memory/memoryN/{state,valid_zones,...} and its nodeM link
//   memory/*                             /sys/devices/system/memory/*
//   node/*, node/nodeM/*                 /sys/devices/system/node/...   with memoryN links by blocks.txt
//   memory_hotplug_parameters/* or       /sys/module/memory_hotplug/parameters/*
//     params/*
//
//   blocks.txt   block|state|valid_zones|removable|phys_device|phys_index|node links[|more]
//                memory32|offline|Normal Movable|1|0|00000020|node1
//
// An empty cell is an absent file. Rows that are no such rows are left out of the tree; labProblems names them.
// Files that cannot be read on a live machine (soft_offline_page is write-only, and the recorder kept cat's complaint)
// are names without text. Cost of labTree: blocks.txt and the listings once, other files when they are read.

import { treeFromFiles } from './memory-tree.ts';
import type { KernfsProblem, KernTree } from './source.ts';
import { numberIn } from './sysfs.ts';
import { quoted } from './text.ts';

const BLOCKS_FILE = '/memory/blocks.txt';
const PROC_FILES = new Set([
  'buddyinfo',
  'cmdline',
  'iomem',
  'meminfo',
  'modules',
  'pagetypeinfo',
  'slabinfo',
  'version',
  'vmstat',
  'zoneinfo',
]);
const WRITE_ONLY = new Set(['hard_offline_page', 'soft_offline_page']);
const PARAMETER_FOLDERS = ['/memory_hotplug_parameters', '/params'];

/** Is this folder such a snapshot? True when it has the block table and a zoneinfo at its top. */
export const isLabSnapshot = (flat: KernTree): boolean =>
  flat.readText(BLOCKS_FILE) !== undefined && flat.readText('/zoneinfo') !== undefined;

/** The snapshot as a live machine shows it. `flat` has the folder as its root: "/zoneinfo", "/memory/blocks.txt". */
export function labTree(flat: KernTree): KernTree {
  const texts = new Map<string, string | undefined>();
  const origins = new Map<string, string>();
  const link = (path: string) => texts.set(path, undefined);
  const origin = (path: string, from: string) => {
    texts.set(path, undefined);
    origins.set(path, from);
  };

  for (const name of flat.list('/')) if (PROC_FILES.has(name)) origin(`/proc/${name}`, `/${name}`);
  for (const name of flat.list('/memory')) {
    if (name.endsWith('.txt')) continue;
    const path = `/sys/devices/system/memory/${name}`;
    if (WRITE_ONLY.has(name)) link(path);
    else origin(path, `/memory/${name}`);
  }
  for (const name of flat.list('/node')) {
    if (numberIn(name, 'node') === undefined) origin(`/sys/devices/system/node/${name}`, `/node/${name}`);
    else {
      for (const file of flat.list(`/node/${name}`)) {
        if (!file.endsWith('.txt')) origin(`/sys/devices/system/node/${name}/${file}`, `/node/${name}/${file}`);
      }
    }
  }
  for (const folder of PARAMETER_FOLDERS) {
    for (const name of flat.list(folder)) origin(`/sys/module/memory_hotplug/parameters/${name}`, `${folder}/${name}`);
  }
  for (const row of readRows(flat).rows) {
    const dir = `/sys/devices/system/memory/${row.name}`;
    for (const [file, cell] of row.attributes) if (cell !== '') texts.set(`${dir}/${file}`, `${cell}\n`);
    for (const node of row.nodes) {
      link(`${dir}/${node}`);
      link(`/sys/devices/system/node/${node}/${row.name}`);
    }
  }

  const index = treeFromFiles(texts);
  return {
    readText: (path) => {
      const from = origins.get(path);
      return from === undefined ? index.readText(path) : flat.readText(from);
    },
    list: index.list,
  };
}

/** Rows of blocks.txt that name no block, repeat one or have too few cells; [] when all is well. */
export const labProblems = (flat: KernTree): readonly KernfsProblem[] => readRows(flat).problems;

const ATTRIBUTES = ['state', 'valid_zones', 'removable', 'phys_device', 'phys_index'] as const;
/** The block's name, its attributes, its node links. */
const CELLS = 1 + ATTRIBUTES.length + 1;

type Row = {
  readonly name: string;
  readonly attributes: readonly (readonly [file: string, cell: string])[];
  readonly nodes: readonly string[];
};

function readRows(flat: KernTree): { readonly rows: readonly Row[]; readonly problems: readonly KernfsProblem[] } {
  const rows = new Map<string, Row>();
  const problems: KernfsProblem[] = [];
  const lines = (flat.readText(BLOCKS_FILE) ?? '').split('\n');
  for (const [i, line] of lines.entries()) {
    const row = readRow(line.replace(/\r$/, ''));
    const isHeading = i === 0 && line.startsWith('block');
    if (row !== undefined && !rows.has(row.name)) rows.set(row.name, row);
    else if (!isHeading && line.trim() !== '') {
      const reason =
        row === undefined ? `${quoted(line)} is not a row of ${CELLS} cells` : `${row.name} was given before`;
      problems.push({ file: BLOCKS_FILE, line: i + 1, reason });
    }
  }
  return { rows: [...rows.values()], problems };
}

function readRow(line: string): Row | undefined {
  const cells = line.split('|').map((cell) => cell.trim());
  if (cells.length < CELLS || numberIn(cells[0], 'memory') === undefined) return undefined;
  return {
    name: cells[0],
    attributes: ATTRIBUTES.map((file, k) => [file, cells[k + 1]] as const),
    nodes: cells[CELLS - 1].split(' ').filter((name) => numberIn(name, 'node') !== undefined),
  };
}
