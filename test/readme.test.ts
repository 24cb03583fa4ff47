// The README's programs run as they stand.

import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

import { afterEach, expect, test, vi } from 'vitest'

import { temporaryFolder } from './checkpoint/files.js'

const folder = temporaryFolder()
const programs = [...readFileSync('README.md', 'utf8').matchAll(/```ts\n(.*?)```/gs)]
  .map((match) => match[1]!)
  .filter((code) => /from 'seqmix/.test(code))

afterEach(() => vi.restoreAllMocks())

test('there are some', () => expect(programs.length).toBeGreaterThanOrEqual(4))

test.each(programs.map((code, i) => [i, code] as const))('program %i runs', async (i, code) => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true)
  const file = join(folder, `program-${i}.ts`)
  const source = (entry = '') => pathToFileURL(resolve('lib', entry.slice(1), 'index.ts')).href
  writeFileSync(
    file,
    code.replace(/from 'seqmix(\/\w+)?'/g, (_, entry?: string) => `from '${source(entry)}'`),
  )
  await import(/* @vite-ignore */ pathToFileURL(file).href)
})
