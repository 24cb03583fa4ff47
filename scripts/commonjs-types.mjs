// Writes X.d.cts beside X.d.ts: the declarations a CommonJS program under node16 resolution sees. Every name is taken from
// the ES module's declarations through a type import with its resolution mode said, so that the two cannot differ.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import ts from 'typescript'

/** @param {string} file an ES module's .d.ts */
export function writeCommonJsTypes(file) {
  const program = ts.createProgram([file], {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    types: [],
    skipLibCheck: true,
  })
  const checker = program.getTypeChecker()
  const symbol = checker.getSymbolAtLocation(program.getSourceFile(file))
  const from = `'./${path.basename(file, '.d.ts')}.js' with { 'resolution-mode': 'import' }`
  const lines = ['// Written by the build from the declarations of the ES module.', `import type * as esm from ${from}`]
  const typesOnly = []
  for (const exported of checker.getExportsOfModule(symbol)) {
    const name = exported.name
    const target = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
    if (!(target.flags & ts.SymbolFlags.Value)) {
      typesOnly.push(name)
      continue
    }
    lines.push(`export declare const ${name}: typeof esm.${name}`)
    if (target.flags & ts.SymbolFlags.Type) {
      const count = checker.getDeclaredTypeOfSymbol(target).typeParameters?.length ?? 0
      const parameters = count ? `<${Array.from({ length: count }, (_, i) => `T${i}`).join(', ')}>` : ''
      lines.push(`export type ${name}${parameters} = esm.${name}${parameters}`)
    }
    if (target.flags & ts.SymbolFlags.NamespaceModule && !(target.flags & ts.SymbolFlags.Class))
      throw new Error(`${file}: ${name} is a namespace, which the CommonJS declarations cannot mirror`)
  }
  if (typesOnly.length) lines.push(`export type { ${typesOnly.join(', ')} } from ${from}`)
  writeFileSync(file.replace(/\.d\.ts$/, '.d.cts'), `${lines.join('\n')}\n`)
}
