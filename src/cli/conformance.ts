// npm run conformance [-- DIR] [--json] [--all]: recorded guests, replayed on the engine and compared step by step.
//
//   DIR/NAME/ops.jsonl            what was done and read (conformance/ops.ts)
//   DIR/NAME/SNAPSHOT/            the kernel's files as they were
//   DIR/NAME/PASS-pages/memN.*    page flags of a block just before an attempt; PASS-before is its snapshot
//
// DIR may also be one recording. Exit 0: nothing is wrong. 1: something is, or could not be replayed. 2: no recordings.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { err } from '#base/result';
import { type PageRuns, RunBuilder } from '#capture/page-runs';
import { type Recording, replay } from '#conformance/replay';
import { type Outcome, reportJson, reportText, totalsOf } from '#conformance/report';
import { readCapture } from '#hosts/linux/read-capture';
import { readGzipWords } from '#hosts/linux/root';

const DEFAULT_DIR = 'test/golden/conformance';
const USAGE = 'usage: npm run conformance -- [DIR] [--json] [--all]';

function main(): number {
  let dir: string | undefined;
  let json = false;
  let all = false;
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { json: { type: 'boolean' }, all: { type: 'boolean' } },
    });
    json = values.json === true;
    all = values.all === true;
    if (positionals.length <= 1) dir = positionals[0] ?? DEFAULT_DIR;
  } catch {
    // An unknown option: the usage line says what there is.
  }
  if (dir === undefined) return complain(USAGE);
  const folders = recordingsIn(dir);
  if (folders.length === 0) return complain(`${dir} has no recording: no ops.jsonl in it or in a folder of it.`);
  const outcomes: Outcome[] = [];
  for (const folder of folders) {
    const recording = recordingOf(folder);
    outcomes.push({ name: recording.name, result: replayed(recording) });
    if (process.stderr.isTTY) process.stderr.write(`${recording.name}\n`);
  }
  process.stdout.write(json ? `${JSON.stringify(reportJson(outcomes), null, 2)}\n` : reportText(outcomes, all));
  const total = totalsOf(outcomes);
  return total.wrong > 0 || total.unreadable > 0 ? 1 : 0;
}

/** A bug that shows in one recording does not hide the others. */
function replayed(recording: Recording): Outcome['result'] {
  try {
    return replay(recording);
  } catch (e) {
    if (!(e instanceof Error)) throw e;
    return err(`a bug: ${e.message}`);
  }
}

function complain(sentence: string): number {
  process.stderr.write(`${sentence}\n`);
  return 2;
}

function recordingsIn(dir: string): string[] {
  const isRecording = (folder: string): boolean => fs.existsSync(path.join(folder, 'ops.jsonl'));
  if (isRecording(dir)) return [dir];
  if (!fs.existsSync(dir) || !fs.statSync(dir).isDirectory()) return [];
  return fs
    .readdirSync(dir)
    .sort()
    .map((name) => path.join(dir, name))
    .filter(isRecording);
}

function recordingOf(folder: string): Recording {
  return {
    name: path.basename(path.resolve(folder)),
    ops: fs.readFileSync(path.join(folder, 'ops.jsonl'), 'utf8'),
    snapshot: (dir) => {
      const capture = readCapture(path.join(folder, dir), { now: () => new Date(0) });
      return capture.ok ? capture.value : undefined;
    },
    blockPages: (dir, block) => {
      const pass = /^(.+)-before$/.exec(dir)?.[1];
      if (pass === undefined) return undefined;
      const flags = runsIn(path.join(folder, `${pass}-pages`, `mem${block}.kpf.gz`));
      if (flags === undefined) return undefined;
      return { flags, counts: runsIn(path.join(folder, `${pass}-pages`, `mem${block}.kpc.gz`)) };
    },
  };
}

function runsIn(file: string): PageRuns | undefined {
  if (!fs.existsSync(file)) return undefined;
  const builder = new RunBuilder();
  return readGzipWords(file, (pairs, frames) => builder.push(pairs, frames)) === undefined
    ? builder.finish()
    : undefined;
}

process.exitCode = main();
