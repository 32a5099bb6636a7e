import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['dimmer-src'] },
  ssr: { resolve: { conditions: ['dimmer-src'] } },
  test: {
    include: ['src/**/*.test.ts', 'src/**/*.fuzz.ts', 'test/**/*.test.ts'],
    env: { TZ: 'UTC', LC_ALL: 'C' },
    testTimeout: 120_000,
    maxWorkers: 2,
  },
});
