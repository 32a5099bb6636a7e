// The SVG map: the README's picture is up to date, accessible, self-contained, and says what the data says.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../support/source-files.ts';
import { BUSY_DIMM, DEMO, runCli, scratchDirectory } from './run-cli.ts';

const svg = runCli(['map', '-q', '--from', DEMO, '-o', '-']).out;

describe('map as SVG', () => {
  it('Q14 docs/images/map.svg is what dimmer map draws today', () => {
    expect(
      readFileSync(join(ROOT, 'docs/images/map.svg'), 'utf8') === svg,
      'npm run build; node dist/cli/main.js map',
    ).toBe(true);
  });

  it('has a role, a title and a description for those who do not see it', () => {
    expect(svg).toMatch(/<svg [^>]*role="img" aria-labelledby="t d"/);
    expect(svg).toMatch(/<title id="t">Physical memory: demo\.dimmer<\/title>/);
    expect(svg).toMatch(/<desc id="d">.*20 of 32 memory blocks would go offline \(2\.5G\), 9 would not, 3 might/);
  });

  it('has one tooltip a block with its verdict', () => {
    const tips = [...svg.matchAll(/<title>(block \d+: [^<]+)<\/title>/g)].map((m) => m[1]);
    expect(tips).toHaveLength(32);
    expect(tips).toContain('block 2: no (EBUSY)');
    expect(tips).toContain('block 5: maybe (EINTR)');
  });

  it('has one cell a pageblock, and one stroke for each that holds what cannot move', () => {
    const map = JSON.parse(runCli(['map', '-q', '--json', '--from', DEMO]).out);
    const tiles = [...svg.matchAll(/<g><title>block[\s\S]*?<\/g>/g)].map((m) => m[0]);
    let cells = 0;
    let strokes = 0;
    for (const tile of tiles) {
      for (const [, d, rest] of tile.matchAll(/<path d="([^"]+)" ([^>]*)>/g)) {
        if (/stroke=/.test(rest as string)) strokes += (d as string).split('M').length - 1;
        else cells += (d as string).split('M').length - 1;
      }
    }
    expect(cells).toBe(map.blocks.length * map.pageblocksPerBlock);
    expect(strokes).toBe(map.stuckPageblocks);
  });

  it('is well-formed and reaches for nothing outside', () => {
    const open: string[] = [];
    for (const [, close, name, self] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/gi)) {
      if (close === '/') expect(open.pop()).toBe(name);
      else if (self !== '/') open.push(name as string);
    }
    expect(open).toEqual([]);
    expect(svg).not.toMatch(/href|<script|<style|@import|url\((?!#)/);
  });

  it('Q14 no two kinds of filling look alike without colour: lightness differs, or a stroke does', () => {
    const luma = (hex: string): number => {
      const [r, g, b] = [1, 3, 5].map((k) => Number.parseInt(hex.slice(k, k + 2), 16)) as [number, number, number];
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    // Free, processes, page cache: without strokes. Kernel, reserved: with.
    for (const group of [
      ['#edf1f4', '#0072b2', '#56b4e9'],
      ['#d55e00', '#8c2d04'],
    ]) {
      for (const c of group) expect(svg).toContain(c);
      const lumas = group.map(luma).sort((a, b) => a - b);
      for (let k = 1; k < lumas.length; k++) expect(lumas[k]! - lumas[k - 1]!).toBeGreaterThan(40);
    }
  });

  it('writes a file whole, and replaces an older map', () => {
    const file = join(scratchDirectory(), 'map.svg');
    for (const bundle of [BUSY_DIMM, DEMO]) expect(runCli(['map', '-q', '--from', bundle, '-o', file]).code).toBe(0);
    expect(readFileSync(file, 'utf8')).toBe(svg);
  });
});
