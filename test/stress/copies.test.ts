// More than one copy of the package in a process, as happens when two dependencies each bring theirs, and the ways to load one.
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { child, patience, root, scripts } from './child.js'

mkdirSync(path.join(root, '.cmake'), { recursive: true })
const folder = mkdtempSync(path.join(root, '.cmake', 'copies-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const ok = { code: 0, signal: null, out: 'ok\n', err: '' }

test('two copies that load one addon', patience, async () => {
  const second = path.join(folder, 'lib')
  cpSync(path.join(scripts(), 'lib'), second, { recursive: true })
  expect(await child('two-copies', [path.join(second, 'index.js')])).toEqual(ok)
})

test('two copies, each with an addon of its own', patience, async () => {
  const second = path.join(folder, 'package')
  cpSync(path.join(scripts(), 'lib'), path.join(second, 'lib'), { recursive: true })
  mkdirSync(path.join(second, 'build/Release'), { recursive: true })
  for (const file of ['seqmix.node', 'seqmix_cuda.so']) {
    const built = path.join(root, 'build/Release', file)
    if (existsSync(built)) cpSync(built, path.join(second, 'build/Release', file))
  }
  writeFileSync(path.join(second, 'package.json'), '{"name": "seqmix", "type": "module"}')
  expect(await child('two-copies', [path.join(second, 'lib/index.js')])).toEqual(ok)
})

test('import and require of one copy are one', patience, async () => {
  expect(await child('import-and-require', [])).toEqual({
    ...ok,
    err: expect.stringMatching(/^$|ExperimentalWarning/) as string,
  })
})
