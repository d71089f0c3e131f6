-- Chat templates against jinja2: spec/golden/templates.jsonl, which spec/golden/make_templates.py made.
local kava = require "kava"
local helper = require "spec.helper"

local lines = io.lines(os.getenv "KAVA_TEMPLATE_CASES" or "spec/golden/templates.jsonl")
local contexts = assert(kava.json.decode(lines())).contexts
local now = os.time { year = 2024, month = 7, day = 6, hour = 5, min = 4, sec = 3 }

-- The context anew each time: a template must not have changed it.
local function context(i) return assert(kava.json.decode(contexts[i + 1], { ordered = true })) end

local groups, order = {}, {}
for line in lines do
  local case = assert(kava.json.decode(line))
  if not groups[case.name] then
    groups[case.name] = {}
    order[#order + 1] = case.name
  end
  table.insert(groups[case.name], case)
end

describe("a chat template", function()
  for _, name in ipairs(order) do
    it("gives what jinja2 gives: " .. name, function()
      local short = {}
      for i, case in ipairs(groups[name]) do
        local template = case.template
        if case.tokenizer then
          local path = helper.shared("tokenizers/" .. case.tokenizer .. "/tokenizer_config.json")
          if not path then pending "skipped: ../shared is not here" return end
          template = assert(kava.json.load(path)).chat_template
        end
        local text, message, code = kava.chat.render(template, context(case.context), { now = now })
        if case.error then
          if text or code ~= "format" or not message:find "^chat template, line %d+: ." then
            short[#short + 1] = ("%d: %s\n  ought to be refused, gave %s %s"):format(i, template, text, message)
          end
        elseif text ~= case.out then
          short[#short + 1] = ("%d: %s\n  expected %q\n  got      %q %s"):format(i, template, case.out, text, text and "" or message)
        end
      end
      assert(#short == 0, table.concat(short, "\n"))
    end)
  end
end)

describe("apply_chat_template", function()
  local texts = { "the cat sat on the mat, the cat sat" }
  local function tokenizer(template)
    local special = { "<|im_start|>", "<|im_end|>" }
    local tok, dir = assert(kava.tokenizer.train { texts = texts, vocab_size = 260, special = special }), helper.tmp()
    assert(tok:save(dir))
    if template then
      local config = assert(kava.json.load(dir .. "/tokenizer_config.json"))
      config.chat_template = template
      helper.write(dir .. "/tokenizer_config.json", kava.json.encode(config))
    end
    return assert(kava.tokenizer.load(dir)), dir
  end
  local chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    .. "{% if add_generation_prompt %}+{% endif %}"
  local messages = { { role = "user", content = "the cat" } }

  it("renders the tokenizer's template, as text or as ids", function()
    local tok = tokenizer(chatml)
    assert.are.equal(chatml, tok.chat_template)
    local text = "<|im_start|>user\nthe cat<|im_end|>"
    assert.are.equal(text, tok:apply_chat_template(messages))
    assert.are.equal(text .. "+", tok:apply_chat_template(messages, { add_generation_prompt = true }))
    assert.are.equal(text, tok:apply_chat_template('[{"role": "user", "content": "the cat"}]'))
    local ids = tok:apply_chat_template(messages, { tokenize = true })
    assert.are.same(tok:encode(text), ids)
    assert.are.equal(tok:id "<|im_start|>", ids[1])
  end)

  it("ends with the last message where that is to be gone on with", function()
    local tok = tokenizer(chatml)
    local chat = { { role = "user", content = "hi" }, { role = "assistant", content = "the answer is  " } }
    assert.are.equal("<|im_start|>user\nhi<|im_end|><|im_start|>assistant\nthe answer is  ",
      tok:apply_chat_template(chat, { continue_final_message = true }))
    assert.are.equal("the answer is  ", chat[2].content)
    local trims = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    assert.are.equal("[hi][the answer is", tok:apply_chat_template(chat, { continue_final_message = true, chat_template = trims }))
    for _, options in ipairs { { add_generation_prompt = true }, { chat_template = "{{ messages[0].content }}" } } do
      options.continue_final_message = true
      local text, message, code = tok:apply_chat_template(chat, options)
      assert.are.same({ nil, "format" }, { text, code })
      assert.matches("continue_final_message", message)
    end
  end)

  it("knows special tokens, tools and other variables, and the spans of generation", function()
    local tok = tokenizer(nil)
    local template = "{{ eos_token }}{{ tools }}{{ x }}{{ y is defined }}"
    assert.are.equal("<|im_start|>NoneTrueTrue",
      tok:apply_chat_template(messages, { chat_template = template, variables = { x = true, y = 1 } }))
    local tools = '[{"b": 1, "a": {"z": [], "y": {}}}]'
    assert.are.equal(tools, tok:apply_chat_template(messages, { chat_template = "{{ tools | tojson }}", tools = tools }))
    local unordered = { { a = 1, name = "n", type = "f", b = kava.json.array {} } }
    assert.are.equal('[{"type": "f", "name": "n", "a": 1, "b": []}]',
      tok:apply_chat_template(messages, { chat_template = "{{ tools | tojson }}", tools = unordered }))
    local answers = "é{% generation %}ab{% endgeneration %}c{% generation %}d{% endgeneration %}"
    local text, spans = tok:apply_chat_template(messages, { chat_template = answers })
    assert.are.equal("éabcd", text)
    assert.are.same({ { 3, 4 }, { 6, 6 } }, spans)
  end)

  it("reads chat_template.jinja, and takes it along", function()
    local _, dir = tokenizer("of the config")
    helper.write(dir .. "/chat_template.jinja", "{{ messages | length }}\n")
    local tok = assert(kava.tokenizer.load(dir))
    assert.are.equal("1", tok:apply_chat_template(messages))
    assert(tok:save(dir .. "/copy"))
    assert.are.equal("{{ messages | length }}\n", assert(kava.tokenizer.load(dir .. "/copy")).chat_template)
    assert.are.equal("b", tokenizer({ { name = "tool_use", template = "a" }, { name = "default", template = "b" } }).chat_template)
  end)

  it("names the line of what a template does wrong", function()
    local tok = tokenizer(nil)
    local function refused(template, pattern, given)
      local text, message, code = tok:apply_chat_template(given or messages, { chat_template = template })
      assert.is_nil(text)
      assert.are.equal("format", code)
      assert.matches(pattern, message)
    end
    refused("a\n\n{{ raise_exception('no ' ~ messages[0].role) }}", "line 3: no user$")
    refused("{% if a %}\n{% for x in messages %}\n", "line 2: 'else' or 'endfor' is missing")
    refused("\n{{ messages[0].content.x.y }}", "line 2: 'str object' has no attribute 'x'$")
    refused("{% if x %}\n{{ 1 +\n }}{% endif %}", "line 3: unexpected '}}'$")
    refused("{{ messages | tojson(indent='x', separators=3) }}", "line 1: a wrong argument")
    refused("x", "messages%[1%]%.content is not valid UTF%-8", { { role = "user", content = "\xff" } })
    refused("x", "a function cannot be given", { { role = print } })
    refused("x", "messages: byte", "[}")
    local loop = {}
    loop[1] = loop
    refused("x", "in itself", loop)
    local text, message, code = tok:apply_chat_template(messages)
    assert.are.same({ nil, "unsupported" }, { text, code })
    assert.matches("no chat template", message)
    assert.error_matches(function() tok:apply_chat_template(messages, { tool = {} }) end, "unknown option 'tool'")
  end)

  it("splits at white space as Python does", function()
    for call, expected in pairs {
      ["split(none, 0)"] = "['a b c ']", ["split(none, 1)"] = "['a', 'b c ']", ["split(none, 3)"] = "['a', 'b', 'c']",
      ["rsplit(none, 0)"] = "['  a b c']", ["rsplit(none, 1)"] = "['  a b', 'c']", ["rsplit(none, 2)"] = "['  a', 'b', 'c']",
      ["rsplit(none, 3)"] = "['a', 'b', 'c']", ["rsplit()"] = "['a', 'b', 'c']",
    } do
      assert.are.equal(expected, kava.chat.render("{{ '  a b c '." .. call .. " }}", {}))
    end
  end)

  it("sees nothing of the machine, of Lua or of what it would be in Python", function()
    for _, template in ipairs {
      "{{ ''.__class__ }}", "{{ ().__class__.__base__.__subclasses__() }}", "{{ messages.__init__.__globals__ }}",
      "{{ cycler.__init__.__globals__.os }}", "{{ lipsum.__globals__ }}", "{{ self._TemplateReference__context }}", "{{ config.items() }}",
      "{{ messages | attr('__class__') }}", "{{ '{0.__class__}'.format(1) }}", "{{ raise_exception.__globals__ }}", "{{ range.__self__ }}",
      "{{ 'x'.upper.__name__ }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ os.execute('id') }}",
      "{{ io.open('/etc/passwd').read() }}", "{{ require('os') }}", "{{ load('return 1')() }}", "{{ _G }}", "{{ _ENV.os }}",
      "{{ 'x'.rep(3) }}", "{{ 'x'.gsub('x', 'y') }}", "{{ 'x'.__index }}", "{{ messages.items }}", "{{ messages[0].map }}",
      "{{ messages[0].__keys }}", "{{ namespace().kind }}", "{{ messages.__name }}",
    } do
      local text, message = kava.chat.render(template, { messages = { { role = "user", content = "x" } } })
      assert.is_true(text == "" or text == nil and message:find "^chat template, line 1: ." ~= nil, template)
    end
  end)

  it("stops what loops or grows without end", function()
    for template, pattern in pairs {
      ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"] = "stopped$",
      ["{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"] = "more than 100 macros",
      ["{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}"] = "more than 100 loops",
      ["{{ 'x' * 9999999999 }}"] = "stopped$",
      ["{{ [1] * 9999999999 }}"] = "stopped$",
      ["{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"] = "stopped$",
      ["{{ 'x'.center(999999999) }}"] = "stopped$",
      ["{{ '%0999999999d' % 1 }}"] = "too wide",
      ["{{ 'x' | indent(999999999) }}"] = "stopped$",
      ["{{ {} | tojson(indent=999999999) }}"] = "stopped$",
      ["{{ [1] | batch(1, 2) | list | batch(999999999, 3) | list }}"] = "stopped$",
      ["{{ " .. ("("):rep(10000) .. "1" .. (")"):rep(10000) .. " }}"] = "nested too deeply",
      [("{% if a %}"):rep(10000)] = "nested too deeply",
      ["{{ " .. ("not "):rep(10000) .. "1 }}"] = "nested too deeply",
      ["{{ 9223372036854775807 + 1 }}"] = "too large",
      ["{% set a = 'a' * 100000 %}{{ a.find(a[:50000] ~ 'b') }}"] = "stopped$",
      ["{{ 1" .. (" + 1"):rep(20000) .. " }}"] = "stopped$",
      ["{{ 'abcd' * 4611686018427387905 }}"] = "stopped$",
      ["{{ 'a'.rjust(4611686018427387905, 'abcd') }}"] = "exactly one character",
      ["{{ {1e308 * 10 - 1e308 * 10: 1} }}"] = "nan cannot be a key",
      ["{% set a = 'a' * 10000 %}{% for i in range(99) %}{% if a | length %}{% endif %}{% endfor %}"] = "stopped$",
      ["{% set a = 'a' * 10000 %}{% for i in range(9) %}{% if a.title() %}{% endif %}{% endfor %}"] = "stopped$",
      ["{{ [[[[1, 2, 3]]]] | tojson(indent=9000) }}"] = "stopped$",
    } do
      local started = os.clock()
      local text, message, code = kava.chat.render(template, {}, { budget = template:find "find" and 300000 or 30000 })
      assert.is_nil(text)
      assert.are.equal("format", code)
      assert.matches(pattern, message)
      if not helper.sanitized then assert.is_true(os.clock() - started < 10) end
    end
    local before = os.clock()
    local text, spans = kava.chat.render("{% for i in range(9000) %}{% generation %}.{% endgeneration %}{% endfor %}", {})
    assert.are.same({ 9000, { 9000, 9000 } }, { #text, spans[9000] })
    assert.are.equal("100000", kava.chat.render("{{ s.split() | length }}", { s = ("a "):rep(100000) }))
    if not helper.sanitized then assert.is_true(os.clock() - before < 5) end
    for _, template in ipairs { ("{% if a -%} "):rep(100) .. "x" .. ("{% endif -%} "):rep(100), ("{{ 'a' -}} \n"):rep(4000) } do
      local started = os.clock()
      assert.is_string(kava.chat.render(template, { a = true }))
      if not helper.sanitized then assert.is_true(os.clock() - started < 10) end
    end
  end)
end)

describe("a broken chat template", function()
  -- KAVA_FUZZ_TEMPLATES: how many; spec/fuzz has the fuzzers of the C side.
  it("is rendered or refused with its line, whatever was done to it", function()
    local sources = {}
    for _, name in ipairs(order) do
      for _, case in ipairs(groups[name]) do sources[#sources + 1] = case.template end
    end
    local pieces = { "{%", "%}", "{{", "}}", "{#", "#}", "-%}", "{%-", "(", ")", "[", "]", "{", "}", ",", ".", ":", "=", "|", "~", "'",
      '"', "\\", "\n", " if ",
      " else ", " for x in ", " in ", " is ", " not ", "loop", "messages", "none", "[::-1]", "| tojson", "| map", "(1)", "*",
      "**", "//",
      "{% endfor %}", "{% endif %}", "{% set ns = namespace(a=1) %}", "{% macro m(a) %}", "{% endmacro %}", "{{ m(m) }}", "9999999999",
      "{% raw %}", "\0", "\xff", "é", "{% break %}", "{% call", "self", "%s" }
    local count = math.tointeger(os.getenv "KAVA_FUZZ_TEMPLATES" or 500)
    local drawn = 0
    local function draw(n) -- 1 .. n, the same in every run
      drawn = drawn + 1
      return kava.permute(drawn % 1000003, n, (drawn * 7919) % n + 1)
    end
    for _ = 1, count do
      local text = sources[draw(#sources)]
      for _ = 1, draw(4) do
        local from = draw(#text + 1)
        local how = draw(3)
        if how == 1 then text = text:sub(1, from - 1) .. text:sub(from + draw(12))
        elseif how == 2 then text = text:sub(1, from - 1) .. pieces[draw(#pieces)] .. text:sub(from)
        else
          local other = sources[draw(#sources)]
          local at = draw(#other + 1)
          text = text:sub(1, from - 1) .. other:sub(at, at + draw(40)) .. text:sub(from)
        end
      end
      local made, message, code = kava.chat.render(text, context(draw(#contexts) - 1), { now = now, budget = 20000 })
      if made then assert.is_string(made)
      else
        assert.are.same({ text, "format" }, { text, code })
        assert.matches("^chat template, line %d+: .", message)
      end
    end
  end)
end)
