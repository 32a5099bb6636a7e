// prometheus-node-exporter on a tree: started on a free port of 127.0.0.1, scraped, ended by its pid; and what it must say.

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { chunkCounts, type Machine, NR_ORDERS, PAGE_SIZE } from '../../src/mm/index.ts';
import type { TestTool } from '../../tools/install-test-tools.mjs';
import { sleep } from '../mount/harness.ts';

export const COLLECTORS = ['buddyinfo', 'zoneinfo', 'meminfo_numa'] as const;

/** `node_buddyinfo_blocks{node="0",size="0",zone="DMA"}` -> 2 */
export type Metrics = ReadonlyMap<string, number>;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** @returns what scrapes it; the process ends with the test */
export async function startExporter(tool: TestTool, root: string): Promise<() => Promise<Metrics>> {
  const port = await freePort();
  const args = [
    `--path.procfs=${join(root, 'proc')}`,
    `--path.sysfs=${join(root, 'sys')}`,
    '--collector.disable-defaults',
    ...COLLECTORS.map((c) => `--collector.${c}`),
    '--web.disable-exporter-metrics',
    `--web.listen-address=127.0.0.1:${port}`,
  ];
  const child = spawn(tool.file, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...tool.env } });
  let log = '';
  let ended = false;
  child.stderr.on('data', (c: Buffer) => {
    log += c.toString();
  });
  const exit = new Promise<void>((resolve) => {
    const end = (): void => {
      ended = true;
      resolve();
    };
    child.on('exit', end).on('error', end);
  });
  onTestFinished(async () => {
    if (!ended) child.kill('SIGKILL');
    await exit;
  });
  const url = `http://127.0.0.1:${port}/metrics`;
  for (let waited = 0; !log.includes('Listening on'); waited += 20) {
    if (ended || waited >= 10_000) throw new Error(`the exporter does not listen: ${log}`);
    await sleep(20);
  }
  return async () => {
    const answer = await fetch(url, { signal: AbortSignal.timeout(10_000) });
    if (!answer.ok) throw new Error(`${answer.status}: ${log}`);
    return parseMetrics(await answer.text());
  };
}

const parseMetrics = (text: string): Metrics =>
  new Map(
    text
      .split('\n')
      .filter((l) => l !== '' && !l.startsWith('#'))
      .map((l) => {
        const at = l.lastIndexOf(' ');
        return [l.slice(0, at), Number(l.slice(at + 1))];
      }),
  );

/** What the three collectors must say of a machine, from its engine: by the names that the exporter gives. */
export function metricsOf(m: Machine): Map<string, number> {
  const out = new Map<string, number>();
  for (const c of COLLECTORS) out.set(`node_scrape_collector_success{collector="${c}"}`, 1);
  for (const pool of m.pools) {
    if (pool.present === 0) continue;
    const of = `node="${pool.node}",zone="${pool.name}"`;
    const say = (name: string, n: number): void => void out.set(`node_zoneinfo_${name}{${of}}`, n);
    const chunks = chunkCounts(pool.alloc.area);
    for (let order = 0; order < NR_ORDERS; order++)
      out.set(
        `node_buddyinfo_blocks{node="${pool.node}",size="${order}",zone="${pool.name}"}`,
        chunks[order] as number,
      );
    say('spanned_pages', pool.spanned);
    say('present_pages', pool.present);
    say('managed_pages', pool.managed);
    say('nr_free_pages', pool.alloc.nrFree());
    if (pool.watermarks === undefined) throw new Error(`${of} has no watermarks`);
    say('min_pages', pool.watermarks.min + pool.boost);
    say('low_pages', pool.watermarks.low + pool.boost);
    say('high_pages', pool.watermarks.high + pool.boost);
  }
  for (const node of m.nodes) {
    const pools = m.pools.filter((p) => p.node === node);
    const pages = pools.reduce((n, p) => n + p.managed, 0);
    out.set(`node_memory_numa_MemTotal{node="${node}"}`, pages * PAGE_SIZE);
  }
  return out;
}
