-- Chat templates as trees. A node is a table with `type` and `line`; kava.chat.render says what each type does.
local lexer = require "kava.chat.lexer"
local value = require "kava.chat.value"

local parser = {}

local MAX_DEPTH = 150 -- expressions and statements within one another

local Parser = {}
Parser.__index = Parser

function Parser:fail(message, token) value.fail_at((token or self.token).line, message) end

local function describe(token)
  if token.kind == "eof" then return "the end of the template" end
  if token.kind == "operator" or token.kind == "name" then return "'" .. token.value .. "'" end
  if token.kind == "string" then return "a string" end
  return token.kind == "block_end" and "'%}'" or token.kind == "variable_end" and "'}}'" or (token.kind:gsub("_", " "))
end

function Parser:next()
  local token = self.token
  if token.kind ~= "eof" then
    self.at = self.at + 1
    self.token = self.tokens[self.at]
  end
  return token
end

function Parser:is(kind, text) return self.token.kind == kind and (text == nil or self.token.value == text) end
function Parser:op(text) return self:is("operator", text) end
function Parser:word(text) return self:is("name", text) end

function Parser:skip(kind, text)
  if not self:is(kind, text) then return nil end
  return self:next()
end

function Parser:expect(kind, text)
  if self:is(kind, text) then return self:next() end
  local wanted = text and "'" .. text .. "'" or kind == "name" and "a name" or (kind:gsub("_", " "))
  self:fail(("expected %s, got %s"):format(wanted, describe(self.token)))
end

function Parser:node(kind, fields, line)
  fields.type, fields.line = kind, line or self.token.line
  return fields
end

-- Runs `rule` one level deeper.
function Parser:within(rule, ...)
  self.depth = self.depth + 1
  if self.depth > MAX_DEPTH then self:fail "nested too deeply" end
  local node = rule(self, ...)
  self.depth = self.depth - 1
  return node
end

-- ------------------------------------------------------------------------------------------------------------------ expressions

-- A chain of binary operators of one rank, `names` their node types.
local function chain(names, operand)
  return function(self)
    local left = self[operand](self)
    while self.token.kind == "operator" and names[self.token.value] do
      local token = self:next()
      left = self:node("binary", { op = token.value, left = left, right = self[operand](self) }, token.line)
    end
    return left
  end
end

Parser.math1 = chain({ ["+"] = true, ["-"] = true }, "concat")
Parser.math2 = chain({ ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }, "pow")
Parser.pow = chain({ ["**"] = true }, "unary")

function Parser:concat()
  local line, parts = self.token.line, { self:math2() }
  while self:skip("operator", "~") do parts[#parts + 1] = self:math2() end
  return #parts == 1 and parts[1] or self:node("concat", { parts = parts }, line)
end

function Parser:expression(without_if)
  return self:within(without_if and Parser.either or Parser.conditional)
end

function Parser:conditional()
  local line, node = self.token.line, self:either()
  while self:skip("name", "if") do
    local test, otherwise = self:either(), nil
    if self:skip("name", "else") then otherwise = self:within(Parser.conditional) end
    node = self:node("conditional", { test = test, yes = node, no = otherwise }, line)
  end
  return node
end

function Parser:either()
  local left = self:both()
  while self:word "or" do
    local token = self:next()
    left = self:node("or", { left = left, right = self:both() }, token.line)
  end
  return left
end

function Parser:both()
  local left = self:negation()
  while self:word "and" do
    local token = self:next()
    left = self:node("and", { left = left, right = self:negation() }, token.line)
  end
  return left
end

function Parser:negation()
  local token = self:skip("name", "not")
  if token then return self:node("not", { of = self:within(Parser.negation) }, token.line) end
  return self:comparison()
end

local comparisons = { ["=="] = true, ["!="] = true, ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }

function Parser:comparison()
  local line, first, rest = self.token.line, self:math1(), {}
  while true do
    if self.token.kind == "operator" and comparisons[self.token.value] then
      rest[#rest + 1] = { op = self:next().value, of = self:math1() }
    elseif self:skip("name", "in") then
      rest[#rest + 1] = { op = "in", of = self:math1() }
    elseif self:word "not" and self.tokens[self.at + 1].kind == "name" and self.tokens[self.at + 1].value == "in" then
      self:next()
      self:next()
      rest[#rest + 1] = { op = "not in", of = self:math1() }
    else break end
  end
  return #rest == 0 and first or self:node("compare", { first = first, rest = rest }, line)
end

function Parser:unary(bare)
  local node
  local token = self:skip("operator", "-") or self:skip("operator", "+")
  if token then
    node = self:node("unary", { op = token.value, of = self:within(Parser.unary, true) }, token.line)
  else
    node = self:primary()
  end
  node = self:postfix(node)
  return bare and node or self:filters_and_tests(node)
end

local constants = { ["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false, none = value.none, None = value.none }

function Parser:primary()
  local token = self.token
  if token.kind == "name" then
    self:next()
    if constants[token.value] ~= nil then return self:node("constant", { value = constants[token.value] }, token.line) end
    self.names[token.value] = true
    return self:node("name", { name = token.value }, token.line)
  elseif token.kind == "string" then
    local parts = {}
    while self:is "string" do parts[#parts + 1] = self:next().value end
    return self:node("constant", { value = table.concat(parts) }, token.line)
  elseif token.kind == "integer" or token.kind == "float" then
    return self:node("constant", { value = self:next().value }, token.line)
  elseif self:skip("operator", "(") then
    local node = self:tuple { explicit = true }
    self:expect("operator", ")")
    return node
  elseif self:skip("operator", "[") then
    local items = {}
    while not self:op "]" do
      if #items > 0 then self:expect("operator", ",") end
      if self:op "]" then break end
      items[#items + 1] = self:expression()
    end
    self:expect("operator", "]")
    return self:node("list", { items = items }, token.line)
  elseif self:skip("operator", "{") then
    local items = {}
    while not self:op "}" do
      if #items > 0 then self:expect("operator", ",") end
      if self:op "}" then break end
      local key = self:expression()
      self:expect("operator", ":")
      items[#items + 1] = { key = key, item = self:expression() }
    end
    self:expect("operator", "}")
    return self:node("dict", { items = items }, token.line)
  end
  self:fail("unexpected " .. describe(token))
end

-- One expression, or several with commas between, which are a tuple. options: explicit (within brackets: may be empty), without_if,
-- stop (a word that ends it), simple (names and members only: targets of assignments).
function Parser:tuple(options)
  local line, items, is_tuple = self.token.line, {}, false
  while true do
    if #items > 0 then
      if not self:skip("operator", ",") then break end
      is_tuple = true
    end
    if self:is "variable_end" or self:is "block_end" or self:op ")" or (options.stop and self:word(options.stop)) then break end
    items[#items + 1] = options.simple and self:primary() or self:expression(options.without_if)
  end
  if not is_tuple then
    if #items > 0 then return items[1] end
    if not options.explicit then self:fail("expected an expression, got " .. describe(self.token)) end
  end
  return self:node("list", { items = items, tuple = true }, line)
end

function Parser:postfix(node)
  while true do
    if self:op "." or self:op "[" then node = self:subscript(node)
    elseif self:op "(" then node = self:call(node)
    else return node end
  end
end

function Parser:subscript(node)
  local token = self:next()
  if token.value == "." then
    local name = self:next()
    if name.kind == "name" then return self:node("member", { of = node, name = name.value }, token.line) end
    if name.kind ~= "integer" then self:fail("expected a name behind '.', got " .. describe(name), name) end
    return self:node("item", { of = node, key = self:node("constant", { value = name.value }) }, token.line)
  end
  local first
  if self:op "]" then first = self:node("list", { items = {}, tuple = true }, token.line)
  elseif not self:op ":" then first = self:expression() end
  if not self:op ":" then
    if self:op "," then
      local items = { first }
      while self:skip("operator", ",") do items[#items + 1] = self:expression() end
      first = self:node("list", { items = items, tuple = true }, token.line)
    end
    self:expect("operator", "]")
    return self:node("item", { of = node, key = first }, token.line)
  end
  local parts = { first }
  for part = 2, 3 do
    if not self:skip("operator", ":") then break end
    if not self:op ":" and not self:op "]" then parts[part] = self:expression() end
  end
  self:expect("operator", "]")
  return self:node("slice", { of = node, from = parts[1], to = parts[2], step = parts[3] }, token.line)
end

-- (a, b, name=c, *list, **dict)
function Parser:arguments()
  self:expect("operator", "(")
  local args, named, first = {}, {}, true
  local rest_list, rest_dict
  while not self:op ")" do
    if not first then
      self:expect("operator", ",")
      if self:op ")" then break end
    end
    first = false
    if self:skip("operator", "*") then rest_list = self:expression()
    elseif self:skip("operator", "**") then rest_dict = self:expression()
    elseif self.token.kind == "name" and self.tokens[self.at + 1].kind == "operator" and self.tokens[self.at + 1].value == "=" then
      local name = self:next().value
      self:next()
      named[#named + 1] = { name = name, of = self:expression() }
    else
      if #named > 0 then self:fail "positional argument follows a named one" end
      args[#args + 1] = self:expression()
    end
  end
  self:expect("operator", ")")
  return { args = args, named = named, rest_list = rest_list, rest_dict = rest_dict }
end

function Parser:call(node)
  local line = self.token.line
  return self:node("call", { of = node, arguments = self:arguments() }, line)
end

function Parser:dotted_name()
  local name = self:expect("name").value
  while self:skip("operator", ".") do name = name .. "." .. self:expect("name").value end
  return name
end

local no_arguments = { args = {}, named = {} }

function Parser:filter(node)
  local line = self.token.line
  local name = self:dotted_name()
  local arguments = self:op "(" and self:arguments() or no_arguments
  return self:node("filter", { of = node, name = name, arguments = arguments }, line)
end

local ends_test = { ["else"] = true, ["or"] = true, ["and"] = true, ["if"] = true, ["in"] = true, ["not"] = true }
local starts_argument = { name = true, string = true, integer = true, float = true }

function Parser:test(node)
  local line = self.token.line
  local negated = self:skip("name", "not")
  local name, arguments = self:dotted_name(), no_arguments
  if self:op "(" then
    arguments = self:arguments()
  elseif (starts_argument[self.token.kind] or self:op "[" or self:op "{") and not ends_test[self.token.value] then
    if self:word "is" then self:fail "tests cannot be chained with is" end
    arguments = { args = { self:postfix(self:primary()) }, named = {} }
  end
  local test = self:node("test", { of = node, name = name, arguments = arguments }, line)
  return negated and self:node("not", { of = test }, line) or test
end

function Parser:filters_and_tests(node)
  while true do
    if self:skip("operator", "|") then node = self:filter(node)
    elseif self:skip("name", "is") then node = self:test(node)
    elseif self:op "(" then node = self:call(node)
    else return node end
  end
end

-- ------------------------------------------------------------------------------------------------------------------- statements

-- Statements until one of the end words, whose token is returned too (it is consumed; its tag is not).
function Parser:block(...)
  self:skip("operator", ":") -- as in Python
  self:expect "block_end"
  local ends, body = {}, {}
  for _, name in ipairs { ... } do ends[name] = true end
  while true do
    local token = self:next()
    if token.kind == "eof" then
      self:fail(("'%s' is missing: the block is not closed"):format(table.concat({ ... }, "' or '")), token)
    elseif token.kind == "data" then
      body[#body + 1] = self:node("data", { text = token.value }, token.line)
    elseif token.kind == "variable_begin" then
      body[#body + 1] = self:node("output", { of = self:tuple {} }, token.line)
      self:expect "variable_end"
    else
      if self.token.kind == "name" and ends[self.token.value] then return body, self:next() end
      body[#body + 1] = self:within(Parser.statement)
    end
  end
end

-- What may be assigned to: a name, names with commas between, or (where `members`) a namespace's member.
function Parser:target(members, stop)
  local first = self.token
  if members and first.kind == "name" and self.tokens[self.at + 1].value == "." and self.tokens[self.at + 1].kind == "operator" then
    self:next()
    self:next()
    local space = self:node("name", { name = first.value }, first.line)
    return self:node("member", { of = space, name = self:expect("name").value }, first.line)
  end
  local node = self:tuple { simple = true, stop = stop }
  local function check(n)
    if n.type == "list" and n.tuple then
      for _, item in ipairs(n.items) do check(item) end
    elseif n.type ~= "name" then
      self:fail("that cannot be assigned to", first)
    end
  end
  check(node)
  return node
end

local statements = {}

function statements:set(line)
  local target = self:target(true)
  if self:skip("operator", "=") then
    local node = self:node("set", { target = target, of = self:tuple {} }, line)
    self:expect "block_end"
    return node
  end
  local holder
  while self:skip("operator", "|") do holder = self:filter(holder or self:node("captured", {}, line)) end
  local body = self:block "endset"
  self:expect "block_end"
  return self:node("set_block", { target = target, filter = holder, body = body }, line)
end

statements["if"] = function(self, line)
  local branches, otherwise = {}, nil
  local test = self:tuple { without_if = true }
  while true do
    local body, last = self:block("elif", "else", "endif")
    branches[#branches + 1] = { test = test, body = body }
    if last.value == "elif" then
      test = self:tuple { without_if = true }
    else
      if last.value == "else" then otherwise = self:block "endif" end
      break
    end
  end
  self:expect "block_end"
  return self:node("if", { branches = branches, otherwise = otherwise }, line)
end

statements["for"] = function(self, line)
  local target = self:target(false, "in")
  self:expect("name", "in")
  local of = self:tuple { without_if = true, stop = "recursive" }
  local test = self:skip("name", "if") and self:expression() or nil
  local recursive = self:skip("name", "recursive") ~= nil
  self.loops = self.loops + 1
  local body, last = self:block("else", "endfor")
  self.loops = self.loops - 1
  local otherwise = last.value == "else" and self:block "endfor" or nil
  self:expect "block_end"
  return self:node("for", { target = target, of = of, test = test, recursive = recursive, body = body, otherwise = otherwise }, line)
end

local function loop_control(name)
  return function(self, line)
    if self.loops == 0 then self:fail(name .. " outside a loop") end
    self:expect "block_end"
    return self:node(name, {}, line)
  end
end
statements["break"], statements["continue"] = loop_control "break", loop_control "continue"

-- The parameters of a macro or a call block.
function Parser:parameters()
  local list = {}
  self:expect("operator", "(")
  while not self:op ")" do
    if #list > 0 then self:expect("operator", ",") end
    local name = self:expect("name").value
    list[#list + 1] = { name = name, default = self:skip("operator", "=") and self:expression() or nil }
  end
  self:expect("operator", ")")
  return list
end

-- A body of its own, from which no loop around it can be left, and the names it uses.
function Parser:own_body(ending)
  local loops, names = self.loops, self.names
  self.loops, self.names = 0, {}
  local body = self:block(ending)
  local own = self.names
  for name in pairs(own) do names[name] = true end
  self.loops, self.names = loops, names
  self:expect "block_end"
  return body, own
end

function statements:macro(line)
  local name, parameters = self:expect("name").value, self:parameters()
  local body, names = self:own_body "endmacro"
  return self:node("macro", { name = name, parameters = parameters, body = body, names = names }, line)
end

function statements:call(line)
  local parameters = self:op "(" and self:parameters() or {}
  local call = self:expression()
  if call.type ~= "call" then self:fail "expected a call" end
  local body, names = self:own_body "endcall"
  return self:node("call_block", { call = call, parameters = parameters, body = body, names = names }, line)
end

function statements:filter(line)
  local holder = self:filter(self:node("captured", {}, line))
  while self:skip("operator", "|") do holder = self:filter(holder) end
  return self:node("filter_block", { filter = holder, body = (self:own_body "endfilter") }, line)
end

statements["with"] = function(self, line)
  local assignments = {}
  while not self:is "block_end" do
    if #assignments > 0 then self:expect("operator", ",") end
    local target = self:target(false)
    self:expect("operator", "=")
    assignments[#assignments + 1] = { target = target, of = self:expression() }
  end
  local body = self:block "endwith"
  self:expect "block_end"
  return self:node("with", { assignments = assignments, body = body }, line)
end

function statements:generation(line)
  return self:node("generation", { body = (self:own_body "endgeneration") }, line)
end

function Parser:statement()
  local token = self:next()
  local statement = token.kind == "name" and statements[token.value]
  if not statement then self:fail(("the tag %s is not known"):format(describe(token)), token) end
  return statement(self, token.line)
end

--- The tree of a template: a list of nodes. Raises value.Error with the line.
function parser.parse(source)
  local tokens = lexer.tokens(source)
  local self = setmetatable({ tokens = tokens, at = 1, token = tokens[1], depth = 0, loops = 0, names = {} }, Parser)
  local body = {}
  while true do
    local token = self:next()
    if token.kind == "eof" then return body end
    if token.kind == "data" then
      body[#body + 1] = self:node("data", { text = token.value }, token.line)
    elseif token.kind == "variable_begin" then
      body[#body + 1] = self:node("output", { of = self:tuple {} }, token.line)
      self:expect "variable_end"
    else
      body[#body + 1] = self:within(Parser.statement)
    end
  end
end

return parser
