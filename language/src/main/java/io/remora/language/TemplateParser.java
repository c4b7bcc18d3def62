// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static io.remora.language.TemplateValues.UNDEFINED;

import io.remora.language.TemplateToken.Kind;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;

/**
 * Reads the part of Jinja that chat templates use: {@code if}, {@code for}, {@code set}, {@code
 * macro}, {@code break}, {@code continue}, and expressions. Everything else is refused by name.
 */
final class TemplateParser {

  /** Something with a value. */
  @FunctionalInterface
  interface Expression {
    Object value(TemplateScope scope);
  }

  /** Something that writes or changes names. */
  @FunctionalInterface
  interface Statement {
    Flow run(TemplateScope scope);
  }

  /** How a template continues after a statement. */
  enum Flow {
    NEXT,
    BREAK,
    CONTINUE
  }

  private record Parameter(String name, Expression otherwise) {}

  private static final int MOST_NESTED = 200;

  private final List<TemplateToken> tokens;
  private int at;
  private int depth;

  private TemplateParser(List<TemplateToken> tokens) {
    this.tokens = tokens;
  }

  static Statement parse(String template) {
    TemplateParser parser = new TemplateParser(TemplateToken.of(template));
    Statement all = parser.statements(Set.of());
    parser.expect(Kind.END, parser.now().value());
    return all;
  }

  // Statements

  /** Statements up to a block that begins with one of these names, which is not consumed. */
  private Statement statements(Set<String> ends) {
    if (++depth > MOST_NESTED) {
      throw new TemplateException("The chat template is nested too deeply");
    }
    List<Statement> all = new ArrayList<>();
    while (now().kind() != Kind.END && !(isBlock() && ends.contains(after().value()))) {
      all.add(statement());
    }
    depth--;
    return scope -> {
      for (Statement each : all) {
        Flow flow = each.run(scope);
        if (flow != Flow.NEXT) {
          return flow;
        }
      }
      return Flow.NEXT;
    };
  }

  private boolean isBlock() {
    return now().kind() == Kind.BLOCK_BEGIN;
  }

  private Statement statement() {
    TemplateToken first = take();
    if (first.kind() == Kind.TEXT) {
      return scope -> {
        scope.write(first.value());
        return Flow.NEXT;
      };
    }
    if (first.kind() == Kind.OUTPUT_BEGIN) {
      Expression shown = expression();
      expect(Kind.OUTPUT_END, "}}");
      return scope -> {
        scope.write(TemplateValues.text(shown.value(scope)));
        return Flow.NEXT;
      };
    }
    String name = expect(Kind.NAME, null);
    return switch (name) {
      case "if" -> conditional();
      case "for" -> loop();
      case "set" -> assignment();
      case "macro" -> macro();
      case "generation" -> {
        endBlock();
        Statement body = statements(Set.of("endgeneration"));
        endBlock("endgeneration");
        yield body;
      }
      case "break", "continue" -> {
        endBlock();
        Flow flow = name.equals("break") ? Flow.BREAK : Flow.CONTINUE;
        yield scope -> flow;
      }
      default ->
          throw new TemplateException(
              "The chat template has a block '" + name + "', which is not supported here");
    };
  }

  /** After {@code if} or {@code elif}. */
  private Statement conditional() {
    Expression condition = expression();
    endBlock();
    Statement then = statements(Set.of("elif", "else", "endif"));
    expect(Kind.BLOCK_BEGIN, "a tag");
    Statement otherwise;
    switch (expect(Kind.NAME, null)) {
      case "elif" -> otherwise = conditional();
      case "else" -> {
        endBlock();
        otherwise = statements(Set.of("endif"));
        endBlock("endif");
      }
      default -> {
        endBlock();
        otherwise = scope -> Flow.NEXT;
      }
    }
    return scope ->
        TemplateValues.isTrue(condition.value(scope)) ? then.run(scope) : otherwise.run(scope);
  }

  private Statement loop() {
    List<String> names = new ArrayList<>();
    do {
      names.add(expect(Kind.NAME, null));
    } while (accept(","));
    expect(Kind.NAME, "in");
    Expression over = orExpression();
    Expression filter = acceptName("if") ? expression() : null;
    endBlock();
    Statement body = statements(Set.of("else", "endfor"));
    Statement otherwise = scope -> Flow.NEXT;
    if (after().value().equals("else")) {
      endBlock("else");
      otherwise = statements(Set.of("endfor"));
    }
    endBlock("endfor");
    Statement empty = otherwise;
    return scope -> {
      List<Object> chosen = new ArrayList<>();
      for (Object each : TemplateValues.items(over.value(scope))) {
        TemplateScope inner = scope.inner();
        bind(inner, names, each);
        if (filter == null || TemplateValues.isTrue(filter.value(inner))) {
          chosen.add(each);
        }
      }
      if (chosen.isEmpty()) {
        return empty.run(scope);
      }
      for (int i = 0; i < chosen.size(); i++) {
        scope.countStep();
        TemplateScope inner = scope.inner();
        bind(inner, names, chosen.get(i));
        inner.set("loop", position(chosen, i));
        if (body.run(inner) == Flow.BREAK) {
          break;
        }
      }
      return Flow.NEXT;
    };
  }

  private static void bind(TemplateScope scope, List<String> names, Object value) {
    if (names.size() == 1) {
      scope.set(names.get(0), value);
      return;
    }
    List<Object> parts = TemplateValues.items(value);
    if (parts.size() != names.size()) {
      throw new TemplateException(
          "The chat template takes %d values for the names %s".formatted(parts.size(), names));
    }
    for (int i = 0; i < parts.size(); i++) {
      scope.set(names.get(i), parts.get(i));
    }
  }

  private static Map<String, Object> position(List<Object> items, int index) {
    long size = items.size();
    Map<String, Object> loop = new HashMap<>();
    loop.put("index", index + 1L);
    loop.put("index0", (long) index);
    loop.put("revindex", size - index);
    loop.put("revindex0", size - index - 1);
    loop.put("first", index == 0);
    loop.put("last", index == size - 1);
    loop.put("length", size);
    loop.put("previtem", index == 0 ? UNDEFINED : items.get(index - 1));
    loop.put("nextitem", index == size - 1 ? UNDEFINED : items.get(index + 1));
    TemplateValues.Function cycle = (arguments, named) -> arguments.get(index % arguments.size());
    loop.put("cycle", cycle);
    return loop;
  }

  private Statement assignment() {
    String name = expect(Kind.NAME, null);
    String attribute = accept(".") ? expect(Kind.NAME, null) : null;
    Expression value;
    if (accept("=")) {
      value = tuple();
      endBlock();
    } else {
      endBlock();
      Statement body = statements(Set.of("endset"));
      endBlock("endset");
      value = scope -> written(body, scope);
    }
    return scope -> {
      Object assigned = value.value(scope);
      if (attribute == null) {
        scope.set(name, assigned);
      } else {
        namespace(scope.get(name), name).put(attribute, assigned);
      }
      return Flow.NEXT;
    };
  }

  private static Map<Object, Object> namespace(Object value, String name) {
    if (value instanceof TemplateFunctions.Namespace namespace) {
      return namespace;
    }
    throw new TemplateException(
        "The chat template sets a part of '" + name + "', which is no namespace");
  }

  private static String written(Statement body, TemplateScope scope) {
    scope.countStep();
    StringBuilder text = new StringBuilder();
    body.run(new TemplateScope(scope, text));
    return text.toString();
  }

  private Statement macro() {
    String name = expect(Kind.NAME, null);
    List<Parameter> parameters = new ArrayList<>();
    expect(Kind.OPERATOR, "(");
    while (!accept(")")) {
      String parameter = expect(Kind.NAME, null);
      parameters.add(new Parameter(parameter, accept("=") ? expression() : scope -> UNDEFINED));
      accept(",");
    }
    endBlock();
    Statement body = statements(Set.of("endmacro"));
    endBlock("endmacro");
    return scope -> {
      TemplateValues.Function function =
          (arguments, named) -> {
            TemplateScope inner = scope.inner();
            for (int i = 0; i < parameters.size(); i++) {
              Parameter parameter = parameters.get(i);
              inner.set(
                  parameter.name(),
                  i < arguments.size()
                      ? arguments.get(i)
                      : named.containsKey(parameter.name())
                          ? named.get(parameter.name())
                          : parameter.otherwise().value(inner));
            }
            return written(body, inner);
          };
      scope.set(name, function);
      return Flow.NEXT;
    };
  }

  private void endBlock() {
    expect(Kind.BLOCK_END, "%}");
  }

  /** The whole block of this name. */
  private void endBlock(String name) {
    expect(Kind.BLOCK_BEGIN, "a tag");
    expect(Kind.NAME, name);
    endBlock();
  }

  // Expressions, from the weakest operator to the strongest

  /** One value, or several with commas between them, which are a list. */
  private Expression tuple() {
    Expression first = expression();
    if (!now().is(Kind.OPERATOR, ",")) {
      return first;
    }
    List<Expression> items = new ArrayList<>(List.of(first));
    while (accept(",")) {
      items.add(expression());
    }
    return list(items);
  }

  private Expression expression() {
    if (++depth > MOST_NESTED) {
      throw new TemplateException("The chat template is nested too deeply");
    }
    Expression value = orExpression();
    while (acceptName("if")) {
      Expression then = value;
      Expression condition = orExpression();
      Expression otherwise = acceptName("else") ? expression() : scope -> UNDEFINED;
      value =
          scope ->
              TemplateValues.isTrue(condition.value(scope))
                  ? then.value(scope)
                  : otherwise.value(scope);
    }
    depth--;
    return value;
  }

  private Expression orExpression() {
    return logical("or", true, this::andExpression);
  }

  private Expression andExpression() {
    return logical("and", false, this::notExpression);
  }

  /**
   * Operands with a word between them; the value is the first that {@code decides}, or the last.
   */
  private Expression logical(String word, boolean decides, Supplier<Expression> operand) {
    Expression value = operand.get();
    while (acceptName(word)) {
      Expression left = value;
      Expression right = operand.get();
      value =
          scope -> {
            Object first = left.value(scope);
            return TemplateValues.isTrue(first) == decides ? first : right.value(scope);
          };
    }
    return value;
  }

  private Expression notExpression() {
    if (acceptName("not")) {
      Expression negated = notExpression();
      return scope -> !TemplateValues.isTrue(negated.value(scope));
    }
    return comparison();
  }

  private Expression comparison() {
    Expression first = sum();
    List<String> operators = new ArrayList<>();
    List<Expression> operands = new ArrayList<>(List.of(first));
    while (true) {
      String operator;
      if (now().kind() == Kind.OPERATOR
          && Set.of("==", "!=", "<", ">", "<=", ">=").contains(now().value())) {
        operator = take().value();
      } else if (acceptName("in")) {
        operator = "in";
      } else if (now().is(Kind.NAME, "not") && after().is(Kind.NAME, "in")) {
        at += 2;
        operator = "not in";
      } else {
        break;
      }
      operators.add(operator);
      operands.add(sum());
    }
    if (operators.isEmpty()) {
      return first;
    }
    return scope -> {
      Object left = first.value(scope);
      for (int i = 0; i < operators.size(); i++) {
        Object right = operands.get(i + 1).value(scope);
        if (!holds(operators.get(i), left, right)) {
          return false;
        }
        left = right;
      }
      return true;
    };
  }

  private static boolean holds(String operator, Object left, Object right) {
    return switch (operator) {
      case "==" -> TemplateValues.areEqual(left, right);
      case "!=" -> !TemplateValues.areEqual(left, right);
      case "<" -> TemplateValues.compare(left, right) < 0;
      case ">" -> TemplateValues.compare(left, right) > 0;
      case "<=" -> TemplateValues.compare(left, right) <= 0;
      case ">=" -> TemplateValues.compare(left, right) >= 0;
      case "in" -> TemplateValues.contains(right, left);
      default -> !TemplateValues.contains(right, left);
    };
  }

  private Expression sum() {
    Expression value = concatenation();
    while (now().is(Kind.OPERATOR, "+") || now().is(Kind.OPERATOR, "-")) {
      boolean plus = take().value().equals("+");
      Expression left = value;
      Expression right = concatenation();
      value =
          scope ->
              plus
                  ? TemplateValues.add(left.value(scope), right.value(scope))
                  : TemplateValues.arithmetic("-", left.value(scope), right.value(scope));
    }
    return value;
  }

  private Expression concatenation() {
    Expression value = product();
    while (accept("~")) {
      Expression left = value;
      Expression right = product();
      value =
          scope ->
              TemplateValues.add(
                  TemplateValues.text(left.value(scope)), TemplateValues.text(right.value(scope)));
    }
    return value;
  }

  private Expression product() {
    Expression value = signed();
    while (now().kind() == Kind.OPERATOR && Set.of("*", "/", "//", "%").contains(now().value())) {
      String operator = take().value();
      Expression left = value;
      Expression right = signed();
      value = scope -> TemplateValues.arithmetic(operator, left.value(scope), right.value(scope));
    }
    return value;
  }

  private Expression signed() {
    if (accept("-")) {
      Expression negated = signed();
      return scope -> TemplateValues.arithmetic("-", 0L, negated.value(scope));
    }
    if (accept("+")) {
      return signed();
    }
    Expression base = filtered();
    if (!accept("**")) {
      return base;
    }
    Expression exponent = signed();
    return scope -> TemplateValues.arithmetic("**", base.value(scope), exponent.value(scope));
  }

  /** A value with filters and tests after it. */
  private Expression filtered() {
    Expression value = postfixed();
    while (true) {
      if (accept("|")) {
        String name = expect(Kind.NAME, null);
        value = filter(name, value, now().is(Kind.OPERATOR, "(") ? arguments() : Arguments.NONE);
      } else if (acceptName("is")) {
        boolean negated = acceptName("not");
        String name = expect(Kind.NAME, null);
        value = test(name, negated, value, testArguments());
      } else {
        return value;
      }
    }
  }

  private static Expression filter(String name, Expression value, Arguments arguments) {
    TemplateFunctions.Filter filter = TemplateFunctions.filter(name);
    return scope ->
        filter.apply(value.value(scope), arguments.values(scope), arguments.namedValues(scope));
  }

  private static Expression test(
      String name, boolean negated, Expression value, Arguments arguments) {
    TemplateFunctions.Test test = TemplateFunctions.test(name);
    return scope -> test.holds(value.value(scope), arguments.values(scope)) != negated;
  }

  /** In brackets, or one value without, as in {@code x is divisibleby 3}. */
  private Arguments testArguments() {
    if (now().is(Kind.OPERATOR, "(")) {
      return arguments();
    }
    boolean value =
        switch (now().kind()) {
          case STRING, INTEGER, FLOAT -> true;
          case NAME ->
              !Set.of("and", "or", "not", "if", "else", "is", "in").contains(now().value());
          case OPERATOR -> "[{".contains(now().value());
          default -> false;
        };
    return value ? new Arguments(List.of(postfixed()), Map.of()) : Arguments.NONE;
  }

  private record Arguments(List<Expression> inOrder, Map<String, Expression> named) {
    static final Arguments NONE = new Arguments(List.of(), Map.of());

    List<Object> values(TemplateScope scope) {
      List<Object> values = new ArrayList<>();
      inOrder.forEach(each -> values.add(each.value(scope)));
      return values;
    }

    Map<String, Object> namedValues(TemplateScope scope) {
      Map<String, Object> values = new LinkedHashMap<>();
      named.forEach((name, each) -> values.put(name, each.value(scope)));
      return values;
    }
  }

  private Arguments arguments() {
    List<Expression> inOrder = new ArrayList<>();
    Map<String, Expression> named = new LinkedHashMap<>();
    expect(Kind.OPERATOR, "(");
    while (!accept(")")) {
      if (now().kind() == Kind.NAME && after().is(Kind.OPERATOR, "=")) {
        String name = take().value();
        take();
        named.put(name, expression());
      } else {
        inOrder.add(expression());
      }
      if (!now().is(Kind.OPERATOR, ")")) {
        expect(Kind.OPERATOR, ",");
      }
    }
    return new Arguments(inOrder, named);
  }

  private Expression postfixed() {
    Expression value = primary();
    while (true) {
      Expression owner = value;
      if (accept(".")) {
        String name = take().value();
        if (now().is(Kind.OPERATOR, "(")) {
          Arguments arguments = arguments();
          value =
              scope ->
                  TemplateFunctions.callMethod(
                      owner.value(scope),
                      name,
                      arguments.values(scope),
                      arguments.namedValues(scope));
        } else {
          value = scope -> TemplateValues.attribute(owner.value(scope), name);
        }
      } else if (accept("[")) {
        value = subscript(owner);
      } else if (now().is(Kind.OPERATOR, "(")) {
        Arguments arguments = arguments();
        value =
            scope -> {
              if (owner.value(scope) instanceof TemplateValues.Function function) {
                return function.call(arguments.values(scope), arguments.namedValues(scope));
              }
              throw new TemplateException("The chat template calls a function that is not there");
            };
      } else {
        return value;
      }
    }
  }

  private Expression subscript(Expression owner) {
    Expression from = now().is(Kind.OPERATOR, ":") ? null : expression();
    if (accept("]")) {
      return scope -> TemplateValues.element(owner.value(scope), from.value(scope));
    }
    expect(Kind.OPERATOR, ":");
    boolean hasEnd = !now().is(Kind.OPERATOR, ":") && !now().is(Kind.OPERATOR, "]");
    Expression to = hasEnd ? expression() : null;
    Expression step = accept(":") && !now().is(Kind.OPERATOR, "]") ? expression() : null;
    expect(Kind.OPERATOR, "]");
    return scope ->
        TemplateValues.slice(
            owner.value(scope), number(from, scope), number(to, scope), number(step, scope));
  }

  private static Long number(Expression expression, TemplateScope scope) {
    Object value = expression == null ? null : expression.value(scope);
    if (value == null || value instanceof Long) {
      return (Long) value;
    }
    throw new TemplateException("The chat template has a slice whose bound is no number");
  }

  private Expression primary() {
    TemplateToken token = take();
    switch (token.kind()) {
      case STRING -> {
        StringBuilder text = new StringBuilder(token.value());
        while (now().kind() == Kind.STRING) {
          text.append(take().value());
        }
        String joined = text.toString();
        return scope -> joined;
      }
      case INTEGER -> {
        Long number = Long.valueOf(token.value());
        return scope -> number;
      }
      case FLOAT -> {
        Double number = Double.valueOf(token.value());
        return scope -> number;
      }
      case NAME -> {
        return switch (token.value()) {
          case "true", "True" -> scope -> true;
          case "false", "False" -> scope -> false;
          case "none", "None" -> scope -> null;
          default -> scope -> scope.get(token.value());
        };
      }
      case OPERATOR -> {
        switch (token.value()) {
          case "(" -> {
            if (accept(")")) {
              return scope -> List.of();
            }
            Expression inside = expression();
            if (now().is(Kind.OPERATOR, ")")) {
              take();
              return inside;
            }
            List<Expression> items = new ArrayList<>(List.of(inside));
            expect(Kind.OPERATOR, ",");
            items.addAll(items(")"));
            return list(items);
          }
          case "[" -> {
            return list(items("]"));
          }
          case "{" -> {
            return map();
          }
          default -> {}
        }
      }
      default -> {}
    }
    throw new TemplateException(
        "The chat template has '" + token.value() + "' where a value must be");
  }

  private List<Expression> items(String end) {
    List<Expression> items = new ArrayList<>();
    while (!accept(end)) {
      items.add(expression());
      if (!now().is(Kind.OPERATOR, end)) {
        expect(Kind.OPERATOR, ",");
      }
    }
    return items;
  }

  private static Expression list(List<Expression> items) {
    return scope -> {
      List<Object> values = new ArrayList<>();
      items.forEach(each -> values.add(each.value(scope)));
      return values;
    };
  }

  private Expression map() {
    Map<Expression, Expression> entries = new LinkedHashMap<>();
    while (!accept("}")) {
      Expression key = expression();
      expect(Kind.OPERATOR, ":");
      entries.put(key, expression());
      if (!now().is(Kind.OPERATOR, "}")) {
        expect(Kind.OPERATOR, ",");
      }
    }
    return scope -> {
      Map<Object, Object> values = new LinkedHashMap<>();
      entries.forEach((key, value) -> values.put(key.value(scope), value.value(scope)));
      return values;
    };
  }

  // Tokens

  private TemplateToken now() {
    return tokens.get(at);
  }

  private TemplateToken after() {
    return tokens.get(Math.min(at + 1, tokens.size() - 1));
  }

  private TemplateToken take() {
    TemplateToken token = now();
    if (token.kind() != Kind.END) {
      at++;
    }
    return token;
  }

  private boolean accept(String operator) {
    boolean found = now().is(Kind.OPERATOR, operator);
    at += found ? 1 : 0;
    return found;
  }

  private boolean acceptName(String name) {
    boolean found = now().is(Kind.NAME, name);
    at += found ? 1 : 0;
    return found;
  }

  /** Takes a token of this kind and value; null for any value. */
  private String expect(Kind kind, String value) {
    TemplateToken token = take();
    if (token.kind() != kind || (value != null && !token.value().equals(value))) {
      throw new TemplateException(
          "The chat template has '%s' where %s must be"
              .formatted(token.value(), value == null ? "a name" : "'" + value + "'"));
    }
    return token.value();
  }
}
