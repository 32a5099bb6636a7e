// dimmer export: the tree of a machine as plain files in a new directory, for lsmem --sysroot and for your own eyes.
//
//   source ──openMachine──> Machine and tree ──captureOfTree──> a capture of it ──unpackCapture──> DIR
//
// What is written is a capture like any other: dimmer reads DIR with --sysroot. Plain files take every write and keep it:
// to drive chmem, mount the tree (dimmer mount). Refused: a directory that holds anything, places of the kernel.

import type { Command } from 'commander';
import { plural } from '#base/format';
import type { Capture } from '#capture/capture';
import { RunBuilder } from '#capture/page-runs';
import { isKernelPath, RecordedTree } from '#capture/recorded-tree';
import { unpackCapture } from '#hosts/linux/write';
import type { KernelFs } from '#kernfs/kernel-fs';
import { treeSnapshot } from '#tree/index';
import { EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { openMachine } from './open-machine.ts';
import type { SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';

/** Page words that are read at once: 8 MiB of them. */
const CHUNK_BYTES = 8 * 1024 ** 2;

export function addExport(program: Command, io: Io, exit: (code: number) => void): void {
  withSource(program.command('export'))
    .description('Writes the /sys and /proc of a machine into a new directory, as plain files.')
    .argument('<dir>', 'a directory that does not exist yet, or is empty')
    .addHelpText(
      'after',
      `
A machine file (--from machine.yaml) is booted first: that is how to see what a computer that is not there would say.

Examples:
  dimmer export there --from host.dimmer && lsmem --sysroot there
  dimmer export there --from docs/guide/machines/two-nodes.yaml && dimmer check --sysroot there`,
    )
    .action((dir: string, options: SourceOptions) => exit(run(io, dir, options)));
}

function run(io: Io, dir: string, options: SourceOptions): number {
  const opened = openMachine(io, options);
  if (!opened.ok) return complain(io, opened.error);
  const { name, tree } = opened.value;
  const written = unpackCapture(captureOfTree(tree, name), { directory: dir });
  if (!written.ok) {
    const exit = written.error.reason === 'failed' ? EXIT.FAILED : EXIT.USAGE;
    return complain(io, { exit, sentence: written.error.sentence.replace(/\.$/, '') });
  }
  if (options.quiet !== true) io.err(`${dir}: ${plural(written.value.files, 'file')}\n`);
  return EXIT.OK;
}

/** Links that a capture keeps: which node a block is on. Others lead nowhere in a directory of plain files. */
const KEPT_LINK = /^\/sys\/devices\/system\/(memory\/memory\d+\/node\d+|node\/node\d+\/memory\d+)$/;

/** Everything a tree says, as a capture. Cost O(files + frames). */
export function captureOfTree(tree: KernelFs, name: string): Capture {
  const files = treeSnapshot(tree)
    .filter((f) => isKernelPath(f.path) && (f.kind === 'text' || KEPT_LINK.test(f.path)))
    .map((f) => ({ ...f, text: f.kind === 'text' ? f.text : '', startedMs: 0, endedMs: 0 }));
  return {
    origin: { kind: 'directory', name },
    tree: new RecordedTree(files),
    kpageflags: wordsOf(tree, '/proc/kpageflags'),
    kpagecount: wordsOf(tree, '/proc/kpagecount'),
    cgroups: new Map(),
    problems: [],
  };
}

function wordsOf(tree: KernelFs, file: string): ReturnType<RunBuilder['finish']> {
  const runs = new RunBuilder();
  for (let at = 0; ; at += CHUNK_BYTES) {
    const bytes = tree.read(file, at, CHUNK_BYTES);
    if (typeof bytes === 'string' || bytes.length === 0) return runs.finish();
    runs.push(new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4), bytes.length / 8);
  }
}
